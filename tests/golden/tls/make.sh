#!/bin/sh
# Makes the certificates of the tests of `cluster`: two authorities that do not trust each other, a server, a client.
# They protect nothing.
set -eu
cd "$(dirname "$0")"
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 \
        -subj "/CN=$1" -keyout "$1.key" -out "$1.pem" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
}
signed() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >ext
    openssl x509 -req -days 36500 -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out "$1.pem"
    rm -f "$1.csr" ext ca.srl
}
authority ca
authority other
signed server
signed client
rm -f ca.key other.key
