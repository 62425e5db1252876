-- Run by the official image's first start. Two users with a place of their own each: MLflow keeps its migrations in the
-- public schema, and another user of the same migration tool must not meet them there.
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
