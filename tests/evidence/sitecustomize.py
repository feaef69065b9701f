"""Makes every attempt note its finished epochs in a file, `evidence`, that nothing of ours reads or rewrites.

Python imports a module of this name when it starts; put this folder on PYTHONPATH.
"""

import os
import sys

if "orchestrator.attempt_server" in sys.orig_argv:
    import trainer.result

    _append_result = trainer.result.append_result

    def _append_with_evidence(path, result):
        line = f"{result.epoch} {result.time!r} {os.getpid()}\n".encode()
        descriptor = os.open(path.parent / "evidence", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line)
        os.close(descriptor)
        _append_result(path, result)

    trainer.result.append_result = _append_with_evidence
