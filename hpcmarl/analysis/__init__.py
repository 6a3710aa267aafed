"""Reading runs afterwards: exports, reports, plots. Imports io and maths; nothing that trains imports it."""
