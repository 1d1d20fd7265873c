"""`python -m commander` is `commander`."""

import sys

from commander.cli import main

sys.exit(main())
