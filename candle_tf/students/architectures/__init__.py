"""Binary networks by name; one file each, and one registry."""
