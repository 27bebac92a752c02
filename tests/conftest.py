"""What all tests need of the process that runs them."""

import signal


# A shell that starts the suite in the background lets it ignore SIGINT, and every server that
# the suite starts would inherit that; some tests are about that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
