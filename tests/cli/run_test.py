"""Runs, their folders and checkpoints, for the tests of how a run goes on."""
import json
import os
import re

from program import ProgramTest

# Few steps, with a checkpoint at each tenth.
RUN = {"train__steps": "40", "checkpoint__every": "10", "checkpoint__keep_last": "0", "train__schedule": "constant",
       "log__every": "1"}


class RunTest(ProgramTest):
    def train(self, run, *args, code=0, config="tiny.yaml"):
        outcome = self.run_program(config, f"run.dir={run}", *args)
        self.assertEqual(outcome.code, code, str(outcome))
        return outcome

    def resumed_step(self, outcome):
        found = re.search(r"resumed from .* at step (\d+)", outcome.out)
        return int(found[1]) if found else None

    def steps(self, run, folder="checkpoints"):
        names = os.listdir(self.path(os.path.join(run, folder)))
        return sorted(int(name[5:-3]) for name in names if re.fullmatch(r"step-\d+\.h5", name))

    def step(self, run, number):
        return os.path.join(run, "checkpoints", f"step-{number:08d}.h5")

    def abandoned(self, run):
        return sorted(name for name in os.listdir(self.path(f"{run}/checkpoints")) if name.startswith("abandoned-"))

    def rows(self, path):
        with open(self.path(path)) as file:
            return [json.loads(line)["step"] for line in file]

    def inspect(self, path):
        outcome = self.run_program("inspect", path)
        self.assert_done(outcome)
        return outcome.out

    def run_id(self, path):
        return re.search(r"^run +([0-9a-f]{32})", self.inspect(path), re.MULTILINE)[1]
