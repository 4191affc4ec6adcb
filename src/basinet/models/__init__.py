"""A backbone with heads, atomic references and a file format."""
