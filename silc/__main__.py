"""`python -m silc`, which is also what torchrun starts."""

import sys

from silc.cli import main

sys.exit(main())
