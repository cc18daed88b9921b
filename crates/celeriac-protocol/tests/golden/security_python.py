"""Records keys, certificates, signatures and ids as Celery and Python's cryptography make them, for security_python.json.

    python security_python.py > security_python.json

Everything is made from the test key in security/, which is public and protects nothing.
"""
import base64
import datetime
import json
import subprocess
import sys
from pathlib import Path

from celery.security.certificate import Certificate
from celery.security.key import PrivateKey
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

FOLDER = Path(__file__).parent / 'security'
PASSWORD = 'pässword'
plain = (FOLDER / 'test.key').read_bytes()
key = serialization.load_pem_private_key(plain, None)


def pem(form, encryption):
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


def openssl(*arguments):
    command = ['openssl', *arguments, '-in', str(FOLDER / 'test.key'), '-passout', f'pass:{PASSWORD}']
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


keys = {
    'PKCS#1': pem(PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    'PKCS#8': pem(PrivateFormat.PKCS8, NoEncryption()),
    'text and a certificate before it': 'a note\n' + (FOLDER / 'certs/test.pem').read_text() + plain.decode(),
    'lines of DOS': plain.decode().replace('\n', '\r\n'),
}
encrypted = {
    'PKCS#1, AES-256': pem(PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(PASSWORD.encode())),
    'PKCS#8, the best available': pem(PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode())),
    'PKCS#1, AES-128': openssl('rsa', '-traditional', '-aes128'),
    'PKCS#1, AES-192': openssl('rsa', '-traditional', '-aes192'),
    'PKCS#1, triple DES': openssl('rsa', '-traditional', '-des3'),
    'PKCS#8, scrypt': openssl('pkcs8', '-topk8', '-scrypt'),
    'PKCS#8, AES-128 and SHA-1': openssl('pkcs8', '-topk8', '-v2', 'aes-128-cbc', '-v2prf', 'hmacWithSHA1'),
    'PKCS#8, triple DES': openssl('pkcs8', '-topk8', '-v2', 'des3'),
}

for text in keys.values():
    PrivateKey(text)
for name in ('PKCS#1, AES-256', 'PKCS#8, the best available', 'PKCS#8, scrypt', 'PKCS#8, triple DES'):
    PrivateKey(encrypted[name], PASSWORD)

now = datetime.datetime(2020, 1, 1)
U, P, T, B, W, I = (getattr(_ASN1Type, n) for n in ('UTF8String', 'PrintableString', 'T61String', 'BMPString', 'UniversalString', 'IA5String'))


def certificate(attributes, serial):
    names = []
    for attribute in attributes:
        group = attribute if isinstance(attribute, list) else [attribute]
        names.append(x509.RelativeDistinguishedName([x509.NameAttribute(oid, value, _type=type) for oid, value, type in group]))
    issuer = x509.Name(names)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'subject')]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(datetime.datetime(2120, 1, 1))
        .sign(key, hashes.SHA256())
    )
    text = built.public_bytes(Encoding.PEM).decode()
    return {'pem': text, 'id': Certificate(text).get_id()}


certificates = [
    certificate([(NameOID.COMMON_NAME, 'plain', U)], 1),
    certificate([], 2),
    certificate([(NameOID.COUNTRY_NAME, 'XX', P), (NameOID.ORGANIZATION_NAME, 'Größe & Söhne', U)], 2**158 + 12345),
    certificate([(NameOID.COMMON_NAME, 'bmp ☃', B)], 128),
    certificate([(NameOID.COMMON_NAME, 'universal 😀', W)], 255),
    certificate([(NameOID.COMMON_NAME, 't61', T), (NameOID.EMAIL_ADDRESS, 'a@example.com', I)], 256),
    certificate([[(NameOID.COMMON_NAME, 'two', U), (NameOID.ORGANIZATION_NAME, 'values', U)], (NameOID.LOCALITY_NAME, 'one', U)], 10**18),
    certificate([(NameOID.COMMON_NAME, 'with  spaces ', U), (NameOID.COMMON_NAME, 'x, y=z+1', U)], 7),
]

signatures = []
signer = PrivateKey(plain.decode())
for name in ('sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'sha512_224', 'sha512_256', 'sha3_224', 'sha3_256', 'sha3_384', 'sha3_512'):
    for body in (b'', b'a body', bytes(range(256)) * 40):
        signature = signer.sign(body, getattr(hashes, name.upper())())
        signatures.append({'digest': name, 'body': base64.b64encode(body).decode(), 'signature': base64.b64encode(signature).decode()})

json.dump(
    {'description': __doc__.splitlines()[0], 'password': PASSWORD, 'keys': keys, 'encrypted_keys': encrypted, 'certificates': certificates, 'signatures': signatures},
    sys.stdout,
    indent=1,
)
