"""Pure functions on arrays: no networks, no environments, no ranks. Everybody may call them."""
