"""Long recordings of sensors, and the windows that are cut out of them."""
