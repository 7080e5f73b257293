"""The store in Postgres: forward-only migrations, named queries in `.sql` files, one class per port."""
