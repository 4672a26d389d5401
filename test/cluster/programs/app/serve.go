package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// answer is the body of every HTTP response.
type answer struct {
	Pod     string              `json:"pod"`
	Node    string              `json:"node"`
	Source  string              `json:"source"` // address and port that the connection came from
	Host    string              `json:"host"`
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Headers map[string][]string `json:"headers"`
}

func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	httpAddress := flags.String("http", ":8080", "JSON over HTTP")
	linesAddress := flags.String("lines", ":9000", "TCP: every line comes back as POD SOURCE LINE")
	greetAddress := flags.String("greet", ":9001", "TCP: the server speaks first, POD SOURCE, then as --lines")
	udpAddress := flags.String("udp", ":9002", "UDP: every datagram comes back as POD SOURCE TEXT")
	linger := flags.Duration("linger", 0, "how long to go on serving after SIGTERM")
	_ = flags.Parse(args)

	failed := make(chan error, 4)
	web := &http.Server{Addr: *httpAddress, Handler: http.HandlerFunc(respond)}
	if *httpAddress != "" {
		go func() { failed <- web.ListenAndServe() }()
	}
	if *linesAddress != "" {
		go func() { failed <- serveLines(*linesAddress, false) }()
	}
	if *greetAddress != "" {
		go func() { failed <- serveLines(*greetAddress, true) }()
	}
	if *udpAddress != "" {
		go func() { failed <- serveDatagrams(*udpAddress) }()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		return err
	case <-stop:
	}
	time.Sleep(*linger)
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := web.Shutdown(ending); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func respond(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer{podName(), os.Getenv("NODE"), r.RemoteAddr, r.Host, r.Method, r.URL.RequestURI(), r.Header})
}

func serveLines(address string, greets bool) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			if greets {
				fmt.Fprintf(connection, "%s %s\n", podName(), connection.RemoteAddr())
			}
			lines := bufio.NewScanner(connection)
			for lines.Scan() {
				fmt.Fprintf(connection, "%s %s %s\n", podName(), connection.RemoteAddr(), lines.Text())
			}
		}()
	}
}

func serveDatagrams(address string) error {
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	buffer := make([]byte, 64*1024)
	for {
		size, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		text := strings.TrimSpace(string(buffer[:size]))
		if _, err := socket.WriteTo(fmt.Appendf(nil, "%s %s %s\n", podName(), from, text), from); err != nil {
			return err
		}
	}
}

func podName() string {
	if name := os.Getenv("POD"); name != "" {
		return name
	}
	name, _ := os.Hostname()
	return name
}
