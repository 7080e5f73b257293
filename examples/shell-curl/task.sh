#!/bin/sh
# A task in plain shell: the whole of Milepost's local protocol that most programs need, over a unix socket.
set -eu

call() { # call METHOD PATH [BODY]: prints the answer's body; fails on an HTTP error
  if [ $# -gt 2 ]; then
    curl -sS --fail-with-body --unix-socket "$MILEPOST_SOCKET" -X "$1" -H 'Content-Type: application/json' --data-binary "$3" "http://milepost$2"
  else
    curl -sS --fail-with-body --unix-socket "$MILEPOST_SOCKET" -X "$1" "http://milepost$2"
  fi
}

restore() { # restore KEY DEFAULT: prints the newest checkpoint; only "there is none" means the default
  code=$(curl -sS -o /tmp/restored -w '%{http_code}' --unix-socket "$MILEPOST_SOCKET" "http://milepost/v1/checkpoints/$1")
  case $code in
    200) cat /tmp/restored ;;
    404) echo "$2" ;;
    *) echo "restore $1: HTTP $code" >&2; return 1 ;;
  esac
}

# The sidecar may still be connecting: the first call waits until the attempt has started.
until attempt=$(call GET /v1/attempt 2>/dev/null); do sleep 0.1; done
last=$(echo "$attempt" | jq -r '.input.lines // 10')
pause=$(echo "$attempt" | jq -r '.input.pause // 0.5')

# Go on where the last attempt got to: a checkpoint holds the next line and the sum so far.
state=$(restore position '{"next": 1, "sum": 0}')
next=$(echo "$state" | jq -r .next)
sum=$(echo "$state" | jq -r .sum)
echo "attempt $(echo "$attempt" | jq -r .attempt) begins at line $next"

while [ "$next" -le "$last" ]; do
  sleep "$pause" # the work
  sum=$((sum + next))
  next=$((next + 1))
  call PUT /v1/checkpoints/position "{\"next\": $next, \"sum\": $sum}" >/dev/null
done

call PUT /v1/result "{\"sum\": $sum, \"begun_at\": $(echo "$state" | jq .next)}" >/dev/null
echo "done: $sum"
