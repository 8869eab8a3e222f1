"""`python -m graphengine.cli` is the same as `graphengine`."""

import sys

from graphengine.cli import main

sys.exit(main())
