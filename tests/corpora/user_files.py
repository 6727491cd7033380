"""Files that people have, for the tests of what is read of them."""

import numpy as np
import soundfile

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.3
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "anna - words"
        xmin = 0
        xmax = 2.3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = "say ""no"" 2"
        intervals [3]:
            xmin = 1.25
            xmax = 2.3
            text = "sil"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 2.3
        points: size = 1
        points [1]:
            number = 1.5
            mark = "x"
    item [3]:
        class = "IntervalTier"
        name = "anna - phones"
        xmin = 0
        xmax = 2.3
        intervals: size = 3
        intervals [1]:
            xmin = 0.5
            xmax = 0.75
            text = "n"
        intervals [2]:
            xmin = 0.75
            xmax = 1.25
            text = "əʊ"
        intervals [3]:
            xmin = 1.25
            xmax = 2.3
            text = "<p:>"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
9.5
<exists>
2
"IntervalTier"
"utterances"
0
9.5
3
0
2.0
"first one"
2.0
4.5
""
4.5
9.5
"second"
"IntervalTier"
"phones"
0
9.5
3
0.25
0.5
"f"
1.9
2.1
"n"
5.0
5.5
"s"
"""


def put(path, content=""):
    """A text file; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def hum(path, seconds):
    """A recording of that many seconds, at 8 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(8000 * seconds), np.float32), 8000)
    return path


def grid(tiers, end=9.5):
    """A TextGrid in the short form: (name, [(start, end, label)]) of each tier."""
    text = f'"ooTextFile"\n"TextGrid"\n0\n{end}\n<exists>\n{len(tiers)}\n'
    for name, rows in tiers:
        text += f'"IntervalTier"\n"{name}"\n0\n{end}\n{len(rows)}\n'
        text += "".join('{}\n{}\n"{}"\n'.format(a, b, label.replace('"', '""')) for a, b, label in rows)
    return text
