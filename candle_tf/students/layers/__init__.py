"""Building blocks of binary networks: quantizers, binary convolutions, activations, gates."""
