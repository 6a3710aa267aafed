"""The Python interface: what `import hpcmarl` offers (hpcmarl/__init__.py names it)."""
