"""The command line. It builds runs from recipes and holds no training code of its own."""
