"""``python -m voxtrial.daemon`` is ``voxtrial``."""

from voxtrial.daemon.cli import main

main()
