"""Common parts of all HDF5 files: attributes, trees, filters and protection against failing disks."""
