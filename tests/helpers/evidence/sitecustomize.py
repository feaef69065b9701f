"""Makes every attempt note its epochs in a file, `evidence`, that nothing of ours reads or rewrites.

Two lines an epoch: `saving` before its state is on disk, `finished` after. A process that is killed between the two may
have finished the epoch or not.

Where GATES names a folder, a trial that has a file of its name there goes no further than the epoch that stands in it,
as long as nothing tells it to stop.

Python imports a module of this name when it starts; put this folder on PYTHONPATH.
"""

import os
import pathlib
import sys
import time

if "orchestrator.runner.attempt_server" in sys.orig_argv:
    import trainer.training.fit

    _append_result = trainer.training.fit.append_result
    _save_epoch = trainer.training.fit._Run.save_epoch

    def _note(folder, what, result):
        line = f"{what} {result.epoch} {result.time!r} {os.getpid()}\n".encode()
        descriptor = os.open(folder / "evidence", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line)
        os.close(descriptor)

    def _save_with_evidence(run, result, **settings):
        _note(run.out, "saving", result)
        _save_epoch(run, result, **settings)

    def _append_with_evidence(path, result):
        _note(path.parent, "finished", result)
        _append_result(path, result)

    trainer.training.fit._Run.save_epoch = _save_with_evidence
    trainer.training.fit.append_result = _append_with_evidence

    if "GATES" in os.environ:
        _gates = pathlib.Path(os.environ["GATES"])
        _train_epoch = trainer.training.fit._Run.train_epoch

        def _is_held(gate, epoch):
            try:
                return epoch >= int(gate.read_text())
            except FileNotFoundError:
                return False

        def _train_behind_gate(run, epoch, progress, stop):
            while _is_held(_gates / run.out.name, epoch) and not stop():
                run.saver.after_step()  # epochs are saved and reported while the training stands
                time.sleep(0.01)
            return _train_epoch(run, epoch, progress, stop)

        trainer.training.fit._Run.train_epoch = _train_behind_gate
