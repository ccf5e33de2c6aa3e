"""The tables of `orlop.db`. A change appends a script to MIGRATIONS; a released script is never edited."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE images (
        namespace TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
        record BLOB NOT NULL, PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;
    CREATE INDEX images_digest ON images (digest);
    CREATE TABLE snapshots (
        key TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, parent TEXT, state TEXT NOT NULL,
        record BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX snapshots_parent ON snapshots (parent);
    CREATE TABLE leases (
        id TEXT NOT NULL, kind TEXT NOT NULL, resource TEXT NOT NULL, expires REAL NOT NULL, owner INTEGER NOT NULL,
        PRIMARY KEY (id, kind, resource)
    ) WITHOUT ROWID;
    CREATE TABLE containers (
        id TEXT PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, image TEXT NOT NULL,
        created REAL NOT NULL, config BLOB NOT NULL, record BLOB NOT NULL, UNIQUE (namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE volumes (
        namespace TEXT NOT NULL, name TEXT NOT NULL, anonymous INTEGER NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE volume_users (
        namespace TEXT NOT NULL, volume TEXT NOT NULL, container TEXT NOT NULL,
        PRIMARY KEY (namespace, volume, container)
    ) WITHOUT ROWID;
    CREATE TABLE networks (
        name TEXT PRIMARY KEY, driver TEXT NOT NULL, record BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE addresses (
        network TEXT NOT NULL, address TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (network, address)
    ) WITHOUT ROWID;
    CREATE INDEX addresses_owner ON addresses (owner);
    CREATE TABLE ports (
        protocol TEXT NOT NULL, address TEXT NOT NULL, port INTEGER NOT NULL, owner TEXT NOT NULL,
        PRIMARY KEY (protocol, address, port)
    ) WITHOUT ROWID;
    CREATE INDEX ports_owner ON ports (owner);
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, namespace TEXT NOT NULL, record BLOB NOT NULL
    );
    """,
    """
    ALTER TABLE images ADD COLUMN id TEXT NOT NULL DEFAULT '';
    CREATE INDEX images_id ON images (id);
    """,
)
