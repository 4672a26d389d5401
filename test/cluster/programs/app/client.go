package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// target is what one attempt talks to.
type target struct {
	url, tcp, greeting, udp string
	web                     *http.Client
	timeout                 time.Duration
}

func client(args []string, endless bool) error {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	to := target{}
	flags.StringVar(&to.url, "url", "", "HTTP GET")
	flags.StringVar(&to.tcp, "tcp", "", "a line to HOST:PORT and its echo")
	flags.StringVar(&to.greeting, "greeting", "", "the first line that HOST:PORT sends on its own")
	flags.StringVar(&to.udp, "udp", "", "a datagram to HOST:PORT and its echo")
	flags.DurationVar(&to.timeout, "timeout", 5*time.Second, "for one attempt")
	count := flags.Int("count", 1, "attempts")
	parallel := flags.Int("parallel", 1, "attempts at once")
	rate := flags.Float64("rate", 0, "attempts a second, 0 is as fast as they go")
	reuse := flags.Bool("reuse", false, "HTTP: several requests on one connection")
	header := flags.String("host", "", "HTTP: Host header")
	_ = flags.Parse(args)
	to.web = &http.Client{
		Timeout:       to.timeout,
		Transport:     &http.Transport{DisableKeepAlives: !*reuse, MaxIdleConnsPerHost: *parallel, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}

	running, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	sums := newSums()
	tickets := make(chan struct{})
	go issue(running, tickets, *count, *rate, endless)
	var workers sync.WaitGroup
	for range *parallel {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for range tickets {
				started := time.Now()
				pod, source, err := to.attempt(*header)
				sums.add(pod, source, err, time.Since(started))
			}
		}()
	}
	if endless {
		go func() {
			for range time.Tick(time.Second) {
				sums.print()
			}
		}()
	}
	workers.Wait()
	sums.print()
	return nil
}

func issue(running context.Context, tickets chan<- struct{}, count int, rate float64, endless bool) {
	defer close(tickets)
	next := time.Now()
	for done := 0; endless || done < count; done++ {
		if rate > 0 {
			time.Sleep(time.Until(next))
			next = next.Add(time.Duration(float64(time.Second) / rate))
		}
		select {
		case tickets <- struct{}{}:
		case <-running.Done():
			return
		}
	}
}

// attempt gives the pod that answered and the source address that it saw.
func (to target) attempt(host string) (string, string, error) {
	switch {
	case to.url != "":
		return to.get(host)
	case to.tcp != "":
		return to.exchange("tcp", to.tcp, true)
	case to.greeting != "":
		return to.exchange("tcp", to.greeting, false)
	default:
		return to.exchange("udp", to.udp, true)
	}
}

func (to target) get(host string) (string, string, error) {
	request, err := http.NewRequest(http.MethodGet, to.url, nil)
	if err != nil {
		return "", "", err
	}
	if host != "" {
		request.Host = host
	}
	response, err := to.web.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, response.Body)
		return "", "", statusError(response.StatusCode)
	}
	var body answer
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return "", "", err
	}
	return body.Pod, body.Source, nil
}

func (to target) exchange(network, address string, speaksFirst bool) (string, string, error) {
	connection, err := net.DialTimeout(network, address, to.timeout)
	if err != nil {
		return "", "", err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(to.timeout))
	if speaksFirst {
		if _, err := fmt.Fprintf(connection, "hello\n"); err != nil {
			return "", "", err
		}
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return "", "", err
	}
	words := strings.Fields(line)
	if len(words) < 2 {
		return "", "", fmt.Errorf("unexpected answer %q", line)
	}
	return words[0], words[1], nil
}

type statusError int

func (status statusError) Error() string { return fmt.Sprintf("http-%d", int(status)) }

// kindOf names an error in one word.
func kindOf(err error) string {
	var status statusError
	var name *net.DNSError
	var timeout net.Error
	var address *url.Error
	switch {
	case errors.As(err, &status):
		return status.Error()
	case errors.As(err, &name):
		return "dns"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.As(err, &address):
		return address.Err.Error()
	default:
		return err.Error()
	}
}
