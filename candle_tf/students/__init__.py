"""Binary networks: quantizers, blocks and architectures."""
