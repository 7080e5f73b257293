"""`python -m milepost.sidecar`."""

import sys

from milepost.sidecar.app import main

sys.exit(main())
