// Makes the keys and certificates of a test cluster. Reads a request as JSON from standard input and writes NAME.crt and
// NAME.key into its directory. An authority that is there already signs again.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

type request struct {
	Directory   string        `json:"directory"`
	Authorities []string      `json:"authorities"`
	Keys        []string      `json:"keys"`
	Leaves      []leafRequest `json:"leaves"`
}

type leafRequest struct {
	Name      string `json:"name"`
	Authority string `json:"authority"`
	// CommonName and Organizations are the user and the groups that Kubernetes sees.
	CommonName    string   `json:"commonName"`
	Organizations []string `json:"organizations"`
	// Names are DNS names and addresses.
	Names []string `json:"names"`
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "pki:", err)
		os.Exit(1)
	}
}

func run() error {
	var wanted request
	if err := json.NewDecoder(os.Stdin).Decode(&wanted); err != nil {
		return err
	}
	if err := os.MkdirAll(wanted.Directory, 0o700); err != nil {
		return err
	}
	authorities := map[string]authority{}
	for _, name := range wanted.Authorities {
		made, err := ensureAuthority(wanted.Directory, name)
		if err != nil {
			return err
		}
		authorities[name] = made
	}
	for _, name := range wanted.Keys {
		if err := ensureKeyPair(wanted.Directory, name); err != nil {
			return err
		}
	}
	for _, leaf := range wanted.Leaves {
		signer, known := authorities[leaf.Authority]
		if !known {
			return fmt.Errorf("%s: no authority %q", leaf.Name, leaf.Authority)
		}
		if err := makeLeaf(wanted.Directory, leaf, signer); err != nil {
			return err
		}
	}
	return nil
}

func ensureAuthority(directory, name string) (authority, error) {
	file := filepath.Join(directory, name)
	if text, err := os.ReadFile(file + ".crt"); err == nil {
		return loadAuthority(file, text)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := basics(name)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return authority{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, err
	}
	return authority{certificate, key}, write(file, der, key)
}

func loadAuthority(file string, text []byte) (authority, error) {
	keyText, err := os.ReadFile(file + ".key")
	if err != nil {
		return authority{}, err
	}
	block, _ := pem.Decode(text)
	keyBlock, _ := pem.Decode(keyText)
	if block == nil || keyBlock == nil {
		return authority{}, fmt.Errorf("%s: no PEM", file)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return authority{}, err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	return authority{certificate, key}, err
}

// ensureKeyPair is for what is a key only: the signer of service account tokens.
func ensureKeyPair(directory, name string) error {
	file := filepath.Join(directory, name)
	if _, err := os.Stat(file + ".key"); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := writePem(file+".pub", "PUBLIC KEY", public); err != nil {
		return err
	}
	return writeKey(file, key)
}

func makeLeaf(directory string, leaf leafRequest, signer authority) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := basics(leaf.CommonName)
	template.Subject.Organization = leaf.Organizations
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, name := range leaf.Names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.certificate, &key.PublicKey, signer.key)
	if err != nil {
		return err
	}
	return write(filepath.Join(directory, leaf.Name), der, key)
}

func basics(commonName string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(validity),
	}
}

func write(file string, certificate []byte, key *ecdsa.PrivateKey) error {
	if err := writePem(file+".crt", "CERTIFICATE", certificate); err != nil {
		return err
	}
	return writeKey(file, key)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePem(file+".key", "EC PRIVATE KEY", der)
}

func writePem(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

const validity = 10 * 365 * 24 * time.Hour
