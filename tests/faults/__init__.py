"""Chaos: random faults against random work, and books that have to balance afterwards. See docs/delivery.md.

1. `plan` draws, from a seed, what is sent and what goes wrong, and when; `work` has the tasks.
2. `scene` has the broker, the workers, and a proxy before each; `mishaps` does to them what the plan says.
3. `run` carries a plan out; `accounts` compares the ledger with what was sent; `report` prints the books.
4. `make chaos` is `python -m faults`; the tests here are short runs with fixed seeds.
"""
