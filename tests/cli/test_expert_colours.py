"""Text in the colours of the experts that its tokens choose: the text that it is without, and the choices that analyse counts."""
import collections
import json
import os
import pty
import re
import subprocess

import h5py

from program import PROGRAM, main
from run_test import RUN, RunTest

COLOUR = re.compile(r"\x1b\[38;2;(\d+;\d+;\d+)m(.*?)\x1b\[0m", re.DOTALL)


class ExpertColours(RunTest):
    def setUp(self):
        super().setUp()
        self.write_tiny(**dict(RUN, train__steps="4", train__context="64", moe__experts="5", model__layers="3",
                               model__feed_forward="[moe, dense, moe]"))
        self.train("r")

    def generate(self, *args):
        done = self.run_program("generate", "r", *args)
        self.assert_done(done)
        return done.out

    def coloured(self, *args, layer="2"):
        """The legend's colours by expert, the text in pieces of one colour, and the whole output without colours."""
        legend, text = self.generate("--experts", layer, "--color=always", *args).split("\n", 1)
        self.assertTrue(legend.startswith(f"experts of layer {layer}: "), legend)
        experts = {colour: int(number) for colour, number in COLOUR.findall(legend)}
        self.assertEqual(sorted(experts.values()), [0, 1, 2, 3, 4])
        self.assertEqual(len(experts), 5, "colours differ")
        pieces = [(experts[colour], piece) for colour, piece in COLOUR.findall(text)]
        return pieces, COLOUR.sub(lambda found: found[2], text)

    def test_each_token_has_the_colour_of_its_first_choice(self):
        options = ["--prompt", "In the beginning", "--tokens", "40", "--top-k", "1"]
        plain = self.generate(*options)
        for more in ([], ["--recompute"]):
            pieces, text = self.coloured(*options, *more)
            self.assertEqual(text, plain)
            self.assertEqual("".join(piece for _, piece in pieces), plain[:-1])
        shorter, _ = self.coloured(*options, "--tokens", "39")
        self.assertEqual(shorter, pieces[:-1], "the last token has been read too")
        text = plain[:-1]
        if not text.isascii():
            self.skipTest("characters of several tokens have one colour")
        # analyse looks at every token but the last, in one window.
        self.write("text.txt", text)
        self.assert_done(self.run_program("analyse", "r", "--data", "text.txt", "-o", "out"))
        with h5py.File(self.path("out/tables.h5")) as file:
            counts = file["layers/2/domains_first"][0].tolist()
        seen = collections.Counter(expert for expert, _ in pieces[:-1])
        self.assertEqual([seen[expert] for expert in range(5)], counts)

    def test_the_text_is_the_same_with_stops_samples_and_windows_that_move(self):
        first = ["--prompt", "In the", "--tokens", "30", "--top-k", "1"]
        stop = json.loads(self.generate(*first, "--json"))["text"][9:12]
        self.assertLess(len(self.generate(*first, "--stop", stop)), len(self.generate(*first)), "it stops")
        for options in ([*first, "--stop", stop], [*first, "--stop", f"{stop}never"], [*first, "--tokens", "150"],
                        ["--prompt", "In the", "--tokens", "30", "--samples", "3"], ["--tokens", "1"]):
            self.assertEqual(self.coloured(*options, layer="0")[1], self.generate(*options))

    def on_terminal(self, *args, **environment):
        ours, theirs = pty.openpty()
        done = subprocess.Popen([PROGRAM, "generate", "r", "--tokens", "5", *args], cwd=self.folder, stdout=theirs,
                                env=dict(os.environ, OMP_NUM_THREADS="1", **environment))
        os.close(theirs)
        out = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            out += piece
        os.close(ours)
        self.assertEqual(done.wait(timeout=60), 0)
        return out.decode("utf-8", "replace")

    def test_only_a_terminal_gets_colours_unless_they_are_asked_for(self):
        self.assertNotIn("\x1b", self.generate("--experts", "0", "--tokens", "5"))
        environment = {key: "" for key in ("NO_COLOR",)}
        self.assertIn("\x1b", self.on_terminal("--experts", "0", **environment))
        self.assertNotIn("\x1b", self.on_terminal("--experts", "0", NO_COLOR="1"))
        self.assertNotIn("\x1b", self.on_terminal("--experts", "0", "--color", "never", **environment))
        self.assertIn("\x1b", self.on_terminal("--experts", "0", "--color", "always", NO_COLOR="1"))
        self.assertNotIn("\x1b", self.on_terminal(**environment))

    def test_mistakes_are_told(self):
        for args, parts in ((["--experts", "1"], ["--experts is 1", "dense"]), (["--experts", "3"], ["0 to 2"]),
                            (["--experts", "x"], ["--experts", "layer"]), (["--color", "always"], ["--experts LAYER"]),
                            (["--experts", "0", "--color", "red"], ["auto, always or never"]),
                            (["--experts", "0", "--json"], ["--json"]),
                            (["--experts", "0", "--prompts", "train.txt"], ["--prompts"])):
            self.assert_error(self.run_program("generate", "r", *args), 2, *parts)


if __name__ == "__main__":
    main()
