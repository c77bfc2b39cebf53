"""Files of any size, embedded row by row, on one machine or on a Ray cluster."""
