"""`python -m milepost.runner`."""

import sys

from milepost.runner.parent import main

sys.exit(main())
