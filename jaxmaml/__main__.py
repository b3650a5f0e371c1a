import sys

from jaxmaml.command_line import main

sys.exit(main())
