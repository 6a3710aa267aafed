"""What a league decides, without ranks or files."""
