"""Records what Python makes of bodies in each serializer: serializers.json, beside this file.

Needs celery, kombu, PyYAML and msgpack. Every value is in the tagged JSON of `Value::to_tagged_json`; null where Python
refuses the body. Members of sets and dicts are compared in any order.

    TZ=UTC python record_serializers.py
"""

import base64
import collections
import datetime
import decimal
import json
import math
import pathlib
import pickle
import random
import uuid
import zoneinfo

import celery.exceptions
import msgpack
import yaml
from celery import Celery, chain, chord, group

UTC = datetime.timezone.utc
HALF_PAST = datetime.timezone(-datetime.timedelta(hours=5, minutes=30))


def tag(kind, value):
    return '{"__type__": "%s", "__value__": %s}' % (kind, value)


def items(values):
    return '[' + ', '.join(map(tagged, values)) + ']'


def tagged(value):
    """A value as tagged JSON."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return json.dumps(value)
    if kind is int:
        return str(value) if abs(value) < 2**53 else tag('int', json.dumps(str(value)))
    if kind is float:
        return repr(value) if math.isfinite(value) else tag('float', json.dumps(repr(value)))
    if kind in (bytes, bytearray):
        try:
            return tag('bytes', json.dumps(bytes(value).decode()))
        except UnicodeDecodeError:
            return tag('base64', json.dumps(base64.b64encode(value).decode()))
    if kind in (list, collections.deque):
        return items(value)
    if kind in (tuple, set, frozenset):
        return tag(kind.__name__, items(value))
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and set(value) != {'__type__', '__value__'}:
            return '{' + ', '.join(f'{tagged(key)}: {tagged(item)}' for key, item in value.items()) + '}'
        return tag('dict', items(list(pair) for pair in value.items()))
    if kind in (datetime.datetime, datetime.date, datetime.time):
        return tag(kind.__name__, json.dumps(value.isoformat()))
    if kind is datetime.timedelta:
        return tag('timedelta', items([value.days, value.seconds, value.microseconds]))
    if kind is decimal.Decimal:
        return tag('decimal', json.dumps(str(value)))
    if kind is uuid.UUID:
        return tag('uuid', tagged({'hex': value.hex}))
    if kind is complex:
        return tag('complex', items([value.real, value.imag]))
    if isinstance(value, BaseException):
        _, args, *state = value.__reduce__()
        document = {'module': kind.__module__, 'type': kind.__name__, 'args': list(args)}
        return tag('exception', tagged(document | ({'state': state[0]} if state else {})))
    if kind in (msgpack.ExtType, msgpack.Timestamp):
        args = list(value) if kind is msgpack.ExtType else [value.seconds, value.nanoseconds]
        document = {'module': 'msgpack.ext', 'name': kind.__name__, 'kind': 'call', 'args': args}
        return tag('opaque', tagged(document))
    raise TypeError(kind)


app = Celery()


@app.task(name='tasks.add')
def add(*args):
    pass


VALUES = [
    None, True, False, 0, 1, -1, 255, 256, 65535, 65536, -129, 2**31, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, 2**63, -(2**63),
    -(2**63) - 1, 2**64 - 1, 2**64, 10**40, -(10**40), 10**700, 1.0, -0.0, 1e22, 1e16, 1e-7, 0.1, math.nan, math.inf, -math.inf,
    '', 'abc', 'h\u00e9llo \u4e16', '\U0001f600', 'a\0b\x01\x1f\x7f\x80\u2028"\\/\n\t', 'x\ud800y', '\udc00\ud800',
    b'', b'abc', b'\xff\x00', bytearray(b'xy'), [], [[]], [1, [2, [3]]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4),
    {1, 2, 3}, set(), frozenset('a'), frozenset(), {}, {'a': 1}, {1: 'a', 2: 'b'}, {None: 1, True: 2, 1.5: 3}, {(1, 2): 'x'},
    {'__type__': 'bytes', '__value__': 'abc'}, {'__type__': 'x', '__value__': 1, 'z': 2}, {1: 2, '__type__': 1},
    datetime.datetime(2026, 3, 4, 5, 6, 7), datetime.datetime(2026, 3, 4, 5, 6, 7, 123456, UTC),
    datetime.datetime(2026, 3, 4, 5, 6, 7, 120000, HALF_PAST), datetime.datetime(1, 1, 1),
    datetime.datetime(9999, 12, 31, 23, 59, 59, 999999), datetime.date(2026, 3, 4), datetime.time(5, 6, 7),
    datetime.time(5, 6, 7, 1000, HALF_PAST), datetime.time(0, 0), datetime.timedelta(1, 2, 500000), datetime.timedelta(-1),
    datetime.timedelta(microseconds=-1), datetime.timedelta.max, decimal.Decimal('3.1400'), decimal.Decimal('1E+30'),
    decimal.Decimal('NaN'), decimal.Decimal('-Infinity'), uuid.UUID(int=5), uuid.UUID(int=2**128 - 1), 1 + 2j,
    complex(math.inf, -0.0), 'x' * 300, b'z' * 300, {'k' * 600: 1, 'j': 2}, ValueError('x', 1), KeyError(),
    celery.exceptions.Retry('m', ValueError('q'), 5), celery.exceptions.NotRegistered('t'), {'a': {'b': [1, {'c': (1, {2})}]}},
    [[1, 2]] * 3, [{'a': 1}] * 2,
]

#: What is read as another type than it is.
READ_ONLY = [
    collections.OrderedDict(a=1, b=2), collections.defaultdict(list, {'a': [1]}), collections.Counter('aab'),
    collections.deque([1, 2], 5), collections.deque('ab'), datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo('UTC')),
    datetime.datetime(2026, 1, 1, fold=1), add.s(1), chain(add.s(1), add.s(2)), group(add.s(1), add.s(2)),
    chord([add.s(1)], add.s(2)), add.s(1).set(link=add.s(3)), celery.exceptions.MaxRetriesExceededError('x', task_args=(1,)),
    ModuleNotFoundError('x', name='y'),
]

EXTENSIONS = [
    msgpack.ExtType(5, b'abcd'), msgpack.ExtType(127, b'x' * 300), msgpack.Timestamp(1), msgpack.Timestamp(1, 2),
    msgpack.Timestamp(-5, 7), msgpack.Timestamp(2**35, 7),
]

DOCUMENTS = [
    'a: 1\nb: [1, 2, {c: d}]\n', '- a\n- - b\n  - c\n- {x: y, ? z : w}\n', 'a: &x {k: v}\nb:\n  <<: *x\n  z: 1\n',
    '|\n  abc\n   def\n\n  ghi\n', '>-\n  fold\n  this\n\n  text\n   keep\n', '"dq \\x41 \\u263a \\\n  cont"\n', "'sq ''x'' \n  more'\n",
    '--- !!set {a, b}\n...\n', '!!binary "aGVsbG8="\n', '!!omap [a: 1, b: 2]\n', '!!pairs\n- a: 1\n- b: 2\n',
    '2001-12-14t21:59:43.10-05:00\n', '2001-12-14\n', '2001-1-1 1:02:03 Z\n', '2001-13-14\n', '0x1F\n', '0b101_1\n', '0o7\n', '017\n',
    '019\n', '190:20:30\n', '190:20:30.15\n', '1e3\n', '1.0e+3\n', '1.0e3\n', '.5\n', '-.5\n', '+1_000\n', '.inf\n', '-.INF\n', '.NaN\n',
    '~\n', 'yes\n', 'No\n', 'oN\n', 'y\n', '=\n', '<<\n', '{=: 1, a: 2}\n', '? a\n: b\n? c\n', '? [a]\n: b\n',
    'a:\n- 1\n- 2\nb: # c\n  - x\n', '%YAML 1.1\n---\na\n', '%YAML 2.0\n---\na\n', '%TAG !e! tag:yaml.org,2002:\n---\n!e!int "3"\n',
    '! 12\n', '! "12"\n', '!!str 12\n', '!!int "0x10"\n', '!!float "1"\n', '!!null ""\n', '!!bool "yes"\n', '!!timestamp "2001-01-01"\n',
    '!!python/object/apply:os.system [a]\n', '!!python/tuple [a]\n', '!own a\n', 'a: b: c\n', '[a, b: c, ? d]\n',
    '{a: [1, 2], "b": {c: ~}}\n', '- |+\n  a\n\n- >2\n    b\n  c\n', 'plain text\n  continues here\n   and here\n', 'a b:c d # comment\n',
    '"\\ud83d\\ude00 \\ud800"\n', '- &x a\n- *x\n- !!str &y b\n- *y\n', '- *x\n', '- &x a\n- &x b\n', '{? a, b: , : c}\n',
    'a: !<tag:yaml.org,2002:str> 1\n', '---\n...\n', '', '# only\n', '\ufeffa: 1\n', 'a:\n  b:\n    c: [d, e]\n  f: g\n- h',
    '<<: {a: 1}\na: 2\n', '<<: [{a: 1}, {a: 2, b: 3}]\n', '<<: 1\n', '"a": 1\n\'b\': 2\n', '[1,2]: x\n', 'key: >+\n\n  x\n\n\n',
    '? |\n  block key\n: - one\n  - two\n', '[-, -1, - 1]', '{a:1, b: 2}', '{"a":1}', '[a?b, a:b, "x":y]', 'a\u2028b\n', '"a\u0085b"\n',
    'a: "x\n\n y"\n', '-\n-\n- - -\n', '{}\n[]\n', 'a\n---\nb\n', 'a: 1\na: 2\n', '{1: a, 1.0: b, true: c}\n', 'a:\tb\n', '"\\q"\n', 'a\0b\n',
    'x' * 1100 + ': 1\n', '{? ' + 'x' * 1100 + ' : 1}\n',
]

TOKENS = [
    '\n', '  ', ' ', '- ', '? ', ': ', ':', ', ', '[', ']', '{', '}', '&a ', '*a ', '!!str ', '!!int ', '! ', '|\n', '>\n', "'", '"', '\\',
    '#', ' #', '---\n', '...\n', '%', '~', '1', '0', '.', 'e+', '_', 'yes', '<<', '=', '\t', '\u2028', '\x85', '\r\n', '!!set ', '2001-01-01',
]


def mutated(generator):
    """A document with a few changes."""
    text = list(generator.choice(DOCUMENTS[:-2]))
    for _ in range(generator.randint(1, 3)):
        at = generator.randint(0, len(text))
        if generator.random() < 0.6:
            text[at:at] = generator.choice(TOKENS)
        else:
            del text[at:at + generator.randint(1, 4)]
    return ''.join(text)


def main():
    generator = random.Random(1)
    bodies = []
    for protocol in range(6):
        bodies += [('pickle', pickle.dumps(value, protocol)) for value in VALUES + READ_ONLY]
    for value in VALUES + EXTENSIONS:
        for name, encode in [('msgpack', msgpack.packb), ('yaml', lambda value: yaml.safe_dump(value).encode())]:
            try:
                bodies.append((name, encode(value)))
            except Exception:
                pass
    bodies += [('yaml', text.encode()) for text in DOCUMENTS + [mutated(generator) for _ in range(400)]]
    decoders = {'pickle': pickle.loads, 'msgpack': msgpack.unpackb, 'yaml': yaml.safe_load}
    cases = []
    for name, body in dict.fromkeys(bodies):
        try:
            value = decoders[name](body)
        except Exception:
            value = None
        else:
            value = tagged(value)
        cases.append({'serializer': name, 'body': base64.b64encode(body).decode(), 'value': value})
    lines = ',\n'.join(json.dumps(case) for case in cases)
    path = pathlib.Path(__file__).with_name('serializers.json')
    path.write_text('{"cases": [\n%s\n]}\n' % lines)


if __name__ == '__main__':
    main()
