"""Seeded damage to everything that is read: each input is read, refused in a sentence, or healed.

python -m tests.fuzz --inputs 2000        counts what happens, as docs/reliability.md has it
"""
