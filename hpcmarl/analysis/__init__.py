"""Reading finished runs: exports, reports and plots."""
