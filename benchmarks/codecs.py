"""What a chunk's codec costs and saves: Blosc with blocks of several sizes, its bits shuffled or not, other codecs.

    python -m benchmarks.codecs [PHOTO …] [--side 1904] [--repetitions 5]

Chunks are those of a store, cut from each photo (the demo's landscape where none is given) and from what the shipped
styles make of it, by one thread. Results go to benchmarks/results/codecs.json: milliseconds a megapixel, and bytes over
those of the pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

from benchmarks.common import save
from benchmarks.measuring import Spread, alternate
from urst_tiles import load_network, load_style, open_source, stylize_array
from urst_tiles.demo import landscape
from urst_tiles.geometry import Window
from urst_tiles.stores.encoding import compressed
from urst_tiles.styles import list_styles

CHUNK = 952


class AsStored:
    """What a store does with a chunk, and zarr when it reads it."""

    def encode(self, chunk: NDArray[Any]) -> bytes:
        return bytes(compressed(chunk))

    def decode(self, data: bytes) -> Any:
        return Blosc().decode(data)


CODECS: dict[str, Any] = {
    "a store's": AsStored(),
    "Blosc's own blocks": Blosc("zstd", clevel=1, shuffle=Blosc.BITSHUFFLE),
    **{
        f"blocks of {kib} KiB": Blosc("zstd", clevel=1, shuffle=Blosc.BITSHUFFLE, blocksize=kib << 10)
        for kib in (128, 512, 2048)
    },
    "not shuffled": Blosc("zstd", clevel=1, shuffle=Blosc.NOSHUFFLE, blocksize=512 << 10),
    "level 3": Blosc("zstd", clevel=3, shuffle=Blosc.BITSHUFFLE, blocksize=512 << 10),
    "lz4": Blosc("lz4", clevel=1, shuffle=Blosc.BITSHUFFLE, blocksize=512 << 10),
}


def chunks_of(pixels: NDArray[Any]) -> list[NDArray[Any]]:
    """Whole chunks, (bands, CHUNK, CHUNK), of (height, width, bands)."""
    down, across = (length // CHUNK for length in pixels.shape[:2])
    return [
        np.ascontiguousarray(pixels[row * CHUNK :, col * CHUNK :][:CHUNK, :CHUNK].transpose(2, 0, 1))
        for row in range(down)
        for col in range(across)
    ]


def pictures(photos: Sequence[Path], side: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """What is compressed, (height, width, 3), with its name: uint8, and of photos uint16 too, with noise in the low
    bits as cameras have it."""
    networks = {"": load_network("identity")} | {card.name: load_style(card.name) for card in list_styles()}
    noise = np.random.default_rng(0)
    named = {photo.stem: open_source(photo) for photo in photos}
    for name, source in (named or {"landscape": open_source(landscape(0, 0, side, side, side, side))}).items():
        part = Window(0, 0, min(side, source.info.width), min(side, source.info.height))
        for style, network in networks.items():
            made = stylize_array(source, network, region=part).compute()
            yield " ".join((name, style)).strip(), made
        photo16 = source.read(part).astype(np.uint16) * 257 + noise.integers(0, 257, (part.height, part.width, 3))
        yield f"{name}, 16 bit", np.minimum(photo16, 65535).astype(np.uint16)


def measure(chunks: Sequence[NDArray[Any]], codec: Any) -> dict[str, float]:
    started = time.perf_counter()
    encoded = [codec.encode(chunk) for chunk in chunks]
    between = time.perf_counter()
    for data in encoded:
        codec.decode(data)
    ended = time.perf_counter()
    megapixels = len(chunks) * CHUNK**2 / 1e6
    return {
        "encode": (between - started) * 1e3 / megapixels,
        "decode": (ended - between) * 1e3 / megapixels,
        "size": sum(map(len, encoded)) / sum(chunk.nbytes for chunk in chunks),
    }


def table(chunks: Sequence[NDArray[Any]], repetitions: int) -> dict[str, dict[str, Any]]:
    found = alternate({name: partial(measure, chunks, each) for name, each in CODECS.items()}, repetitions)
    return {
        name: {
            "size": runs[0]["size"],
            **{what: Spread.of(run[what] for run in runs).to_json() for what in ("encode", "decode")},
        }
        for name, runs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path, help=f"of at least {CHUNK} px a side")
    parser.add_argument("--side", type=int, default=2 * CHUNK, help="of the part of each that is taken, in pixels")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    numcodecs.blosc.use_threads = False
    rows: dict[str, dict[str, Any]] = {}
    for name, pixels in pictures(arguments.photos, arguments.side):
        rows[name] = table(chunks_of(pixels), arguments.repetitions)
        print(name)
        for what, found in rows[name].items():
            encode, decode = (found[way]["median"] for way in ("encode", "decode"))
            print(f"  {what:<20} {encode:5.1f} and {decode:4.1f} ms/MP   {found['size']:.3f}")
    over = {
        what: Spread.of(
            row["a store's"][what] / row["Blosc's own blocks"][what]
            if what == "size"
            else row["a store's"][what]["median"] / row["Blosc's own blocks"][what]["median"]
            for row in rows.values()
        )
        for what in ("size", "encode", "decode")
    }
    print("a store's over Blosc's own blocks:", ", ".join(f"{what} {found}" for what, found in over.items()))
    ratios = {what: found.to_json() for what, found in over.items()}
    print("wrote", save("codecs", {"pictures": rows, "a store's over Blosc's own blocks": ratios}))


if __name__ == "__main__":
    main()
