"""``python -m d3d``: see `d3d.cli`."""
# PYTHON_ARGCOMPLETE_OK

import sys

from d3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
