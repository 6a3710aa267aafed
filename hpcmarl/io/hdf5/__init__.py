"""What all HDF5 files share: attributes, trees, filters, failing disks."""
