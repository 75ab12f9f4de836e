"""A small shop as a SQLite file: customers, products, and orders whose key to products is not declared."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

TABLES = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, country TEXT, joined TEXT, credit REAL);
CREATE TABLE products (id INTEGER PRIMARY KEY, title TEXT, category TEXT, price REAL, stock INTEGER);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (id), product_id INTEGER,
  quantity INTEGER, ordered_on TEXT, status TEXT);
"""


def rows(seed: int = 3) -> dict[str, list[tuple[object, ...]]]:
    """What the tables hold."""
    rng = random.Random(seed)
    names = [f"{a} {b}" for a in ("Ada", "Ben", "Cleo", "Dan", "Eva", "O'Hara") for b in ("Stone", "Hill", "Lake")]
    things = [f"{a} {b}" for a in ("Oak", "Pine", "Steel", "Glass") for b in ("Table", "Chair", "Lamp")]

    def day(year: int) -> str:
        return f"{year}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"

    countries = ["France", "Spain", "Italy"]
    customers = [
        (i, name, rng.choice(countries), day(rng.randint(2019, 2023)), None if i == 4 else rng.randint(1, 90_000) / 100)
        for i, name in enumerate(names, 1)
    ]
    products = [
        (i, title, rng.choice(["office", "kitchen"]), rng.randint(500, 40_000) / 100, rng.randint(0, 80))
        for i, title in enumerate(things, 1)
    ]
    orders = [
        (i, rng.randint(1, 15), rng.randint(1, 12), rng.randint(1, 9), day(2024), rng.choice(["open", "sent", "paid"]))
        for i in range(1, 201)
    ]
    return {"customers": customers, "products": products, "orders": orders}


def build_shop(path: Path, seed: int = 3) -> Path:
    """Write it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
        for table, found in rows(seed).items():
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(found[0]))})", found)
        connection.commit()
    return path
