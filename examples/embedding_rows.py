"""Matrix factorisation by rows
============================

Each step touches the users and items of its batch, and no others.

python examples/embedding_rows.py
"""

import numpy as np

import optkern

USERS, ITEMS, FACTORS = 20_000, 5_000, 16
rng = np.random.default_rng(0)

# Ratings of a world in which four tastes decide, with some noise.
tastes, traits = rng.standard_normal((USERS, 4)), rng.standard_normal((ITEMS, 4))
users, items = rng.integers(0, USERS, 1_000_000), rng.integers(0, ITEMS, 1_000_000)
ratings = np.einsum("nk,nk->n", tastes[users], traits[items]) / 2
ratings = (ratings + 0.1 * rng.standard_normal(len(ratings))).astype(np.float32)

tables = {
    "users": 0.1 * rng.standard_normal((USERS, FACTORS), dtype=np.float32),
    "items": 0.1 * rng.standard_normal((ITEMS, FACTORS), dtype=np.float32),
}
optimizer = optkern.Adagrad(tables, lr=0.1)

BATCH = 4096
TEST = slice(950_000, None)


def error(part):
    """What the tables say, less what is so."""
    said = np.einsum("nk,nk->n", tables["users"][users[part]], tables["items"][items[part]])
    return said - ratings[part]


print(f"before: test loss {np.mean(error(TEST) ** 2):.3f}")
for epoch in range(1, 5):
    order, squares = rng.permutation(TEST.start), 0.0
    for part in np.split(order, range(BATCH, len(order), BATCH)):
        wrong = error(part)
        squares += float(np.sum(wrong**2))
        # Of half the mean square, a row for each rating; step_rows adds up those of one row.
        share = wrong[:, None] / len(part)
        rows = {"users": users[part], "items": items[part]}
        grads = {
            "users": share * tables["items"][rows["items"]],
            "items": share * tables["users"][rows["users"]],
        }
        optimizer.step_rows(rows, grads)
    loss, test = squares / len(order), np.mean(error(TEST) ** 2)
    print(f"epoch {epoch}: training loss {loss:.3f}, test loss {test:.3f}")
