"""Operators in C++ for the training step on a CPU, built where they are used."""
