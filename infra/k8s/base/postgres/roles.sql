-- A role and a database of the same name for each service. The passwords are in the environment.
\getenv auth AUTH_PASSWORD
\getenv tickets TICKETS_PASSWORD
\getenv orders ORDERS_PASSWORD
\getenv payments PAYMENTS_PASSWORD

CREATE ROLE auth LOGIN PASSWORD :'auth' CONNECTION LIMIT 180;
CREATE ROLE tickets LOGIN PASSWORD :'tickets' CONNECTION LIMIT 180;
CREATE ROLE orders LOGIN PASSWORD :'orders' CONNECTION LIMIT 180;
CREATE ROLE payments LOGIN PASSWORD :'payments' CONNECTION LIMIT 180;

CREATE DATABASE auth OWNER auth;
CREATE DATABASE tickets OWNER tickets;
CREATE DATABASE orders OWNER orders;
CREATE DATABASE payments OWNER payments;

-- Nobody but a database's owner may connect to it.
REVOKE ALL ON DATABASE auth, tickets, orders, payments, postgres, template1 FROM PUBLIC;
