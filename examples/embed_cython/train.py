"""Factorise synthetic ratings: 100 sweeps, and what is left of the error.

pip install . && python train.py
"""

import factorise
import numpy as np

USERS, ITEMS, RATINGS, RANK = 2000, 1000, 100_000, 16


def compressed(own, others, ratings, count):
    """Ratings sorted by `own` in the CSR format: starts, columns, values."""
    order = np.argsort(own, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=count))])
    return starts.astype(np.intc), others[order].astype(np.intc), ratings[order]


def train(sweeps=100, seed=0, num_threads=2):
    """The root mean square error before and after, and the factors."""
    rng = np.random.default_rng(seed)
    u, i = rng.integers(0, USERS, RATINGS), rng.integers(0, ITEMS, RATINGS)
    truth = [rng.standard_normal((n, 4), dtype=np.float32) for n in (USERS, ITEMS)]
    ratings = np.einsum("nk,nk->n", truth[0][u], truth[1][i])
    by_user, by_item = compressed(u, i, ratings, USERS), compressed(i, u, ratings, ITEMS)
    users, items = (0.1 * rng.standard_normal((n, RANK), dtype=np.float32) for n in (USERS, ITEMS))
    sums = np.zeros_like(users), np.zeros_like(items)

    def error():
        return float(np.sqrt(np.mean((np.einsum("nk,nk->n", users[u], items[i]) - ratings) ** 2)))

    before = error()
    for _ in range(sweeps):
        factorise.sweep(users, sums[0], items, *by_user, 0.1, 0.01, num_threads)
        factorise.sweep(items, sums[1], users, *by_item, 0.1, 0.01, num_threads)
    return before, error(), (users, items, *sums)


if __name__ == "__main__":
    before, after, _ = train()
    print(f"root mean square error {before:.3f} -> {after:.3f}")
