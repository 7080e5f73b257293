#!/bin/bash
# Make the database at its first start, then run the server. Understands the variables and arguments of the public
# postgres image: POSTGRES_USER, _PASSWORD, _DB and _INITDB_ARGS (each also as …_FILE), POSTGRES_HOST_AUTH_METHOD,
# POSTGRES_INITDB_WALDIR, PGDATA, and scripts in /docker-entrypoint-initdb.d.
set -Eeuo pipefail

die() { echo "docker-entrypoint: $*" >&2; exit 1; }

# setting NAME [DEFAULT]: export NAME from itself, or from the file that NAME_FILE names, or from DEFAULT
setting() {
  local name=$1 file="${1}_FILE" value=${2-}
  if [[ -n ${!name-} && -n ${!file-} ]]; then die "both $name and $file are set"; fi
  if [[ -n ${!name-} ]]; then value=${!name}; elif [[ -n ${!file-} ]]; then value=$(<"${!file}"); fi
  export "$name=$value"
  unset "$file"
}

initialize() {
  local auth=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256} waldir=
  if [[ -z $POSTGRES_PASSWORD && $auth != trust ]]; then
    die "POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE must give a password (or set POSTGRES_HOST_AUTH_METHOD=trust)"
  fi
  [[ -z ${POSTGRES_INITDB_WALDIR-} ]] || waldir='--waldir="$POSTGRES_INITDB_WALDIR"'
  # the arguments are a shell word list by the public image's convention, hence eval
  eval 'initdb --username="$POSTGRES_USER" --pwfile=<(printf "%s\n" "$POSTGRES_PASSWORD")' "$waldir" "$POSTGRES_INITDB_ARGS"
  printf '\nhost all all all %s\n' "$auth" >>"$PGDATA/pg_hba.conf"
}

sql() { PGPASSWORD=$POSTGRES_PASSWORD psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$POSTGRES_USER" "$@"; }

run_scripts() {
  local script
  for script in /docker-entrypoint-initdb.d/*; do
    case $script in
      *.sh) if [[ -x $script ]]; then "$script"; else . "$script"; fi ;;
      *.sql) sql --dbname "$POSTGRES_DB" -f "$script" ;;
      *.sql.gz) gunzip -c "$script" | sql --dbname "$POSTGRES_DB" ;;
    esac
  done
}

# create_database ARGS…: with a server that only this container can reach, make the database and run the scripts
create_database() {
  pg_ctl -D "$PGDATA" -w -o "$(printf '%q ' "${@:2}" -c listen_addresses= -p "${PGPORT:-5432}")" start
  if [[ $POSTGRES_DB != postgres ]]; then
    sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
  fi
  run_scripts
  pg_ctl -D "$PGDATA" -m fast -w stop
}

[[ ${1:--} != -* ]] || set -- postgres "$@"
if [[ $1 != postgres ]]; then exec "$@"; fi

mkdir -p "$PGDATA"
if [[ $(id -u) = 0 ]]; then
  chown -R postgres:postgres "$PGDATA" /var/run/postgresql
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
chmod 0700 "$PGDATA" || true # a volume may forbid it; the server checks the mode itself
# A first start that was cut short left half a database that nobody has used: begin again.
unfinished=$PGDATA.unfinished
if [[ -e $unfinished ]]; then find "$PGDATA" -mindepth 1 -delete; fi
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  touch "$unfinished" 2>/dev/null || unfinished= # no room beside the directory when it is a volume's root
  setting POSTGRES_PASSWORD
  setting POSTGRES_USER postgres
  setting POSTGRES_DB "$POSTGRES_USER"
  setting POSTGRES_INITDB_ARGS
  initialize
  create_database "$@"
  [[ -z $unfinished ]] || rm -f "$unfinished"
  unset POSTGRES_PASSWORD
fi
exec "$@"
