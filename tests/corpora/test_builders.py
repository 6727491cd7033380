"""Builders on made-up trees with the real layout, and on three real utterances of festvox-ru."""

import gzip
import inspect
import shutil
from pathlib import Path

import pytest
import soundfile

from couloir.data.corpora import asterisk, festvox, fillets, tuxpaint
from couloir.data.corpora.config import CorporaConfig
from couloir.data.corpora.registry import build, builders, expand
from couloir.errors import UserError
from couloir.text.ipa import normalize, segment

DATA = Path(__file__).parents[1] / "data"


def put(path: Path, content: bytes | str = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("module", [asterisk, festvox, fillets, tuxpaint])
def test_a_builder_takes_at_most_60_lines(module):
    lines = inspect.getsource(module).splitlines()
    table = len(festvox.VOWELS) + 10 if module is festvox else 0  # a table of phones is data
    assert len(lines) - table <= 60


def test_festvox_phones_are_single_segments_and_distinct():
    assert len(festvox.IPA) == len(set(festvox.IPA.values())) == 50
    for symbol in festvox.IPA.values():
        assert normalize(symbol) == symbol and segment(symbol) == [symbol]
    # Any sequence of them comes apart again, so that PER over segments is PER over the gold labels.
    for first in festvox.IPA.values():
        for second in festvox.IPA.values():
            assert segment(first + second) == [first, second]


def test_festvox_has_the_gold_labels_and_times(tmp_path):
    corpus = festvox.FestvoxRu()
    voice = corpus.folder(tmp_path) / "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    names = sorted(path.stem for path in DATA.glob("ru_*.lab"))
    for name in names:
        put(voice / f"lab/{name}.lab", (DATA / f"{name}.lab").read_bytes())
    prompts = "".join(f'( {name} "Ну и ч+то же, {name}?" )\n' for name in names)
    put(voice / "etc/txt.done.data", prompts)
    utterances = list(corpus.utterances(tmp_path))
    assert [u.id for u in utterances] == names
    assert utterances[0].text == f"Ну и что же, {names[0]}?"
    for utterance in utterances:
        rows = [line.split() for line in (DATA / f"{utterance.id}.lab").read_text().splitlines() if line != "#"]
        gold = [(festvox.IPA[label], float(end)) for end, _, label in rows if label not in ("pau", "ssil")]
        assert [phone.symbol for phone in utterance.phones] == [symbol for symbol, _ in gold]
        assert [phone.start + phone.duration for phone in utterance.phones] == pytest.approx([end for _, end in gold])
        assert all(phone.duration > 0 for phone in utterance.phones)
        length = soundfile.info(DATA / f"{utterance.id}.flac").duration
        assert utterance.phones[-1].start + utterance.phones[-1].duration <= length + 0.01


def test_festvox_names_an_unknown_label(tmp_path):
    with pytest.raises(UserError, match="unknown label `zzz`"):
        festvox.read_labels(put(tmp_path / "a.lab", "#\n0.5 125 zzz\n"))


def test_asterisk_takes_what_is_spoken(tmp_path):
    corpus = asterisk.Asterisk("it", "it")
    documents, sounds = (corpus.folder(tmp_path, package) for package in corpus.packages)
    table = (
        "\ufeff; Core Sounds\n\nadded: Aggiunto.\nbeep: [un suono]\nconf: premere # ora\ndigits/1: uno\nlost: perso\n"
    )
    put(documents / f"usr/share/doc/{corpus.packages[0]}/core-sounds-it.txt.gz", gzip.compress(table.encode()))
    for key in ("added", "beep", "conf", "digits/1"):
        put(sounds / f"usr/share/asterisk/sounds/it_IT_m_Carlo/{key}.g722")
    found = list(corpus.utterances(tmp_path))
    assert [(u.id, u.text, u.language, u.speaker) for u in found] == [
        ("added", "Aggiunto.", "it", "it_IT_m_Carlo"),
        ("digits-1", "uno", "it", "it_IT_m_Carlo"),
    ]


def test_fillets_reads_dialogues(tmp_path):
    script = (
        '\ndialogId("m-divna", "font_small", "What (strange) ship?")\ndialogStr("Co je to \\"za\\" loď?")\n\n'
        'dialogId("v-dlouha", "font_robodog", "Long")\ndialogStr("První " ..\n "druhá.")\n'
        'dialogId("both", "font_both", "B")\ndialogStr("Oba.")\n'
        'dialogId("silent", "font_big", "C")\ndialogStr("Nic.")\n'
    )
    found = {}
    for corpus in (fillets.Fillets("cs", True, ""), fillets.Fillets("nl", False, "")):
        scripts, sounds = (corpus.folder(tmp_path, name) / "usr/share/games/fillets-ng" for name in corpus.packages)
        put(scripts / f"script/share/bore/dialogs_{corpus.language}.lua", script)
        for key in ("m-divna", "v-dlouha", "both"):
            put(sounds / f"sound/share/bore/{corpus.language}/{key}.ogg")
        found[corpus.language] = [(u.id, u.text, u.speaker) for u in corpus.utterances(tmp_path)]
    assert found["cs"] == [
        ("share-bore-m-divna", 'Co je to "za" loď?', "small"),
        ("share-bore-v-dlouha", "První druhá.", "robodog"),
        ("share-bore-both", "Oba.", ""),
    ]
    assert [speaker for _, _, speaker in found["nl"]] == ["small", "", ""]


def test_tuxpaint_pairs_stamps_with_texts(tmp_path):
    corpus = tuxpaint.TuxPaint()
    stamps = corpus.folder(tmp_path) / "usr/share/tuxpaint/stamps"
    put(stamps / "animals/frog.txt", "A frog.\nru.utf8=Лягушка.|\nro.utf8=\nde.utf8=Ein Frosch.\nel.utf8=Βάτραχος.\n")
    for name in ("frog_desc.ogg", "frog_desc_ru.ogg", "frog_desc_ro.ogg", "frog_desc_de.ogg"):
        put(stamps / "animals" / name)
    found = [(u.id, u.text, u.language) for u in corpus.utterances(tmp_path)]
    assert found == [("en-animals-frog", "A frog.", "en"), ("ru-animals-frog", "Лягушка.", "ru")]


def test_only_line_feeds_and_returns_end_a_line_of_tuxpaints_texts(tmp_path):
    corpus = tuxpaint.TuxPaint()
    stamps = corpus.folder(tmp_path) / "usr/share/tuxpaint/stamps"
    text = "\ufeffA\x85 frog.\u2028Two\x0c.\r\nru.utf8=Ля\u2028гушка\x1c.\r\nnl.utf8=Een kikker.\r\n"
    put(stamps / "frog.txt", text)
    for name in ("frog_desc.ogg", "frog_desc_ru.ogg", "frog_desc_nl.ogg"):
        put(stamps / name)
    found = {u.language: u.text for u in corpus.utterances(tmp_path)}
    assert found == {"en": "A\x85 frog.\u2028Two\x0c.", "ru": "Ля\u2028гушка\x1c.", "nl": "Een kikker."}


def test_groups_and_unknown_names():
    config = CorporaConfig()
    assert expand(("fillets", "fillets-cs"), config) == ["fillets-cs", "fillets-nl"]
    assert {"festvox-ru", "tuxpaint", "asterisk-ru"} <= set(expand(("human",), config))
    assert not {"synthetic", "user"} & set(expand(("human",), config))
    with pytest.raises(UserError, match="did you mean `festvox-ru`"):
        expand(("festvox",), config)
    for corpus in build(list(builders(config)), config):
        assert corpus.summary and corpus.name in builders(config)


def test_the_users_data_needs_a_path():
    with pytest.raises(UserError, match="--user-data"):
        CorporaConfig(corpora=("user",))
    assert CorporaConfig().corpora == ("festvox-ru",)
    assert CorporaConfig(user_data=Path("x")).corpora == ("user",)
    assert CorporaConfig(corpora=("tuxpaint",), user_data=Path("x")).corpora == ("tuxpaint", "user")


def test_unpacked_audio_is_not_needed_to_list(tmp_path):
    shutil.rmtree(tmp_path)  # a corpus that was never fetched has no sources that exist
    assert not any(path.exists() for path in festvox.FestvoxRu().sources(tmp_path))
