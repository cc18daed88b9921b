"""Records what Python's modules make of complete, truncated, joined and damaged streams, for compression_streams.json.

    python compression_streams.py > compression_streams.json

Needs Python 3.11 or later with brotli and backports.zstd (or 3.14), the modules that kombu.compression uses.
"""
import base64
import bz2
import gzip
import json
import lzma
import random
import struct
import sys
import zlib

import brotli

try:
    from compression import zstd
except ImportError:
    from backports import zstd

METHODS = {'gzip': zlib, 'bzip2': bz2, 'lzma': lzma, 'brotli': brotli, 'zstd': zstd}
TEXT = b'hello celery ' * 50
cases = []


def record(method, name, stream):
    try:
        output = base64.b64encode(METHODS[method].decompress(stream)).decode()
    except Exception:
        output = None
    cases.append({'method': method, 'name': name, 'input': base64.b64encode(stream).decode(), 'output': output})


for method, module in METHODS.items():
    whole = module.compress(TEXT)
    record(method, 'whole', whole)
    record(method, 'of nothing', module.compress(b''))
    record(method, 'of noise', module.compress(random.Random(1).randbytes(3000)))
    record(method, 'no bytes', b'')
    record(method, 'text follows', whole + b'garbage')
    record(method, 'zeros follow', whole + b'\0' * 4)
    record(method, 'a zero follows', whole + b'\0')
    record(method, 'two', whole + whole)
    record(method, 'two and text', whole + whole + b'garbage')
    record(method, 'last byte missing', whole[:-1])
    record(method, 'half missing', whole[: len(whole) // 2])
    for length in (1, 2, 3, 5, 10, len(whole) // 2, len(whole) - 1):
        record(method, f'two, the second only {length} bytes', whole + whole[:length])
    for position in range(0, len(whole), max(1, len(whole) // 6)):
        changed = bytearray(whole)
        changed[position] ^= 0x55
        record(method, f'two, the second with a changed byte {position}', whole + bytes(changed))

record('gzip', 'a gzip file', gzip.compress(TEXT))
raw = zlib.compressobj(wbits=-15)
record('gzip', 'without a header', raw.compress(TEXT) + raw.flush())
small = zlib.compressobj(wbits=9)
record('gzip', 'a small window', small.compress(TEXT) + small.flush())
dictionary = zlib.compressobj(zdict=b'hello')
record('gzip', 'with a dictionary', dictionary.compress(TEXT) + dictionary.flush())
for level in (1, 5, 9):
    record('bzip2', f'level {level}', bz2.compress(TEXT, level))
alone = lzma.compress(TEXT, format=lzma.FORMAT_ALONE)
whole = lzma.compress(TEXT)
record('lzma', 'the older format', alone)
record('lzma', 'the older format and text', alone + b'garbage')
record('lzma', 'the older format and zeros', alone + b'\0' * 4)
record('lzma', 'the older format twice', alone + alone)
record('lzma', 'the older format and the newer', alone + whole)
record('lzma', 'the newer format and the older', whole + alone)
record('lzma', 'the older format, truncated', alone[:-1])
record('lzma', 'padding between two', whole + b'\0' * 4 + whole)
for check in (lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256):
    record('lzma', f'check {check}', lzma.compress(TEXT, check=check))
for preset in (0, 9, 9 | lzma.PRESET_EXTREME):
    record('lzma', f'preset {preset}', lzma.compress(TEXT, preset=preset))
record('lzma', 'a filter for programs', lzma.compress(TEXT, filters=[{'id': lzma.FILTER_X86}, {'id': lzma.FILTER_LZMA2}]))
record('lzma', 'a filter of differences', lzma.compress(TEXT, filters=[{'id': lzma.FILTER_DELTA, 'dist': 4}, {'id': lzma.FILTER_LZMA2}]))
for quality in (0, 5, 9):
    for window in (10, 24):
        record('brotli', f'quality {quality}, window {window}', brotli.compress(TEXT, quality=quality, lgwin=window))
whole = zstd.compress(TEXT)
skipped = struct.pack('<II', 0x184D2A50, 3) + b'abc'
record('zstd', 'a skippable frame alone', skipped)
record('zstd', 'a skippable frame first', skipped + whole)
record('zstd', 'a skippable frame last', whole + skipped)
record('zstd', 'a skippable frame last, truncated', whole + skipped[:5])
stream = zstd.ZstdCompressor()
streamed = stream.compress(TEXT[:300]) + stream.flush(stream.FLUSH_BLOCK) + stream.compress(TEXT[300:]) + stream.flush()
record('zstd', 'of unknown size', streamed)
record('zstd', 'of unknown size, twice', streamed + streamed)
checked = zstd.compress(TEXT, options={zstd.CompressionParameter.checksum_flag: 1})
record('zstd', 'with a checksum', checked)
record('zstd', 'with a wrong checksum', checked[:-1] + bytes([checked[-1] ^ 1]))
for level in (-5, 1, 19, 22):
    record('zstd', f'level {level}', zstd.compress(TEXT, level))

json.dump({'description': __doc__.splitlines()[0], 'text': TEXT.decode(), 'cases': cases}, sys.stdout, indent=0)
