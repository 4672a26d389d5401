// What the pods of a test cluster run: servers that say who they are and whom they see, and a client that counts.
//
//	app serve [--linger 5s]             HTTP on 8080, lines on TCP 9000, greeting first on TCP 9001, datagrams on UDP 9002
//	app client --url URL --count 100    makes requests and prints one JSON object
//	app load --tcp HOST:PORT --rate 50  the same until SIGTERM, and prints the sums so far every second
//	app admit                           a validating webhook that refuses what has the label refuse=yes
//	app resolve NAME                    prints the addresses as JSON
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: app serve|client|load|admit|resolve"))
	}
	switch os.Args[1] {
	case "serve":
		fail(serve(os.Args[2:]))
	case "client":
		fail(client(os.Args[2:], false))
	case "load":
		fail(client(os.Args[2:], true))
	case "admit":
		fail(admit(os.Args[2:]))
	case "resolve":
		fail(resolve(os.Args[2:]))
	default:
		fail(fmt.Errorf("no command %q", os.Args[1]))
	}
}

func resolve(names []string) error {
	for _, name := range names {
		addresses, err := net.LookupHost(name)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(addresses); err != nil {
			return err
		}
	}
	return nil
}

func fail(err error) {
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "app:", err)
	os.Exit(1)
}
