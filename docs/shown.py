"""What an example of the gallery shows: the files that a block of it has saved.

A block saves pictures (``.png``) and interactive pages (``.html``) beside the example, by names
that stand in its code and in no other example. So examples may run side by side.
"""

import logging
import multiprocessing
import os
import re
import shutil
import time
import warnings
from html import escape
from pathlib import Path

#: Where interactive pages wait until the documents are written; they land in ``pages``.
KEPT = Path(__file__).parent / "_kept"

#: A page in a frame. The frame is filled when a reader comes near it.
FRAME = """
.. raw:: html

    <figure class="watched">
    <iframe src="{path}" title="{title}" loading="lazy"></iframe>
    <figcaption>{title} · <a href="{path}">Open alone</a></figcaption>
    </figure>

"""

_STARTED = time.time()


def saved(block, block_vars, gallery_conf):
    """Show the pictures and the pages that a block of an example has saved beside itself."""
    from sphinx_gallery.scrapers import figure_rst

    example = Path(block_vars["src_file"])
    names = re.findall(r"""["']([\w-]+\.(?:png|html))["']""", block[1])
    files = [example.parent / name for name in dict.fromkeys(names)]
    pictures, frames = [], []
    for file in files:
        # A file that was there before is of a run by hand.
        if not file.is_file() or file.stat().st_mtime < _STARTED:
            continue
        if file.suffix == ".png":
            pictures.append(next(block_vars["image_path_iterator"]))
            shutil.move(file, pictures[-1])
        else:
            frames.append(_frame(file, Path(block_vars["target_file"]).parent, gallery_conf))
    return figure_rst(pictures, gallery_conf["src_dir"]) + "".join(frames)


def _frame(file, folder, gallery_conf):
    title = re.search("<title>(.*?)</title>", file.read_text("utf-8"), re.DOTALL)
    kept = KEPT / "pages" / file.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(file, kept)
    root = os.path.relpath(gallery_conf["src_dir"], folder)
    path = escape(f"{Path(root).as_posix()}/pages/{file.name}")
    return FRAME.format(path=path, title=title[1] if title else escape(file.stem))


def quiet(gallery_conf, name):
    """One thread for each example, and no notes of the trainer about devices."""
    import torch

    torch.set_num_threads(1)
    # joblib has a way of its own to start processes, which those of an example cannot use.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    for package in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(package).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch|lightning_fabric")
