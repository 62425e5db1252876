-- Run by the official image at its first start. Each of the two users has its own schema: MLflow's Alembic table is in the
-- public schema, and registry-api's Alembic must not use the same one.
\set QUIET on
\set tracking_password `cat /secrets/postgres/tracking_password`
\set registry_password `cat /secrets/postgres/atelier_registry_password`

CREATE ROLE tracking LOGIN PASSWORD :'tracking_password';
CREATE ROLE atelier_registry LOGIN PASSWORD :'registry_password';
REVOKE ALL ON DATABASE atelier FROM PUBLIC;
GRANT CONNECT ON DATABASE atelier TO tracking, atelier_registry;

ALTER SCHEMA public OWNER TO tracking;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA atelier_registry AUTHORIZATION atelier_registry;
ALTER ROLE atelier_registry SET search_path = atelier_registry;
