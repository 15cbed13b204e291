"""Export of a trained student, and the gate every exported file passes."""
