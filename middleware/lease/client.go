package lease

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/go-redsync/redsync/v4"
	"github.com/redis/go-redis/v9"
)

// newClient makes a client of the section redis, as the registry makes one for itself, with three
// differences. Each question ends with its context, reads ask no replica of Redis, and a command
// that has failed is not sent again: the first may have set the lease.
func newClient(config configuration.Redis) (redis.UniversalClient, error) {
	secure, err := tlsConfig(config.TLS)
	if err != nil {
		return nil, err
	}
	o := config.Options
	dialer := net.Dialer{Timeout: o.DialTimeout}
	dial := dialer.DialContext
	if secure != nil {
		// The library's own dialer ends a handshake at DialTimeout alone.
		dial = (&tls.Dialer{NetDialer: &dialer, Config: secure}).DialContext
	}
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs:                 o.Addrs,
		ClientName:            o.ClientName,
		DB:                    o.DB,
		Dialer:                dial,
		Protocol:              o.Protocol,
		Username:              o.Username,
		Password:              o.Password,
		SentinelUsername:      o.SentinelUsername,
		SentinelPassword:      o.SentinelPassword,
		MaxRetries:            -1,
		DialTimeout:           o.DialTimeout,
		ReadTimeout:           o.ReadTimeout,
		WriteTimeout:          o.WriteTimeout,
		ContextTimeoutEnabled: true,
		PoolFIFO:              o.PoolFIFO,
		PoolSize:              o.PoolSize,
		PoolTimeout:           o.PoolTimeout,
		MaxIdleConns:          o.MaxIdleConns,
		MaxActiveConns:        o.MaxActiveConns,
		ConnMaxIdleTime:       o.ConnMaxIdleTime,
		ConnMaxLifetime:       o.ConnMaxLifetime,
		MaxRedirects:          o.MaxRedirects,
		MasterName:            o.MasterName,
		DisableIdentity:       o.DisableIdentity,
		IdentitySuffix:        o.IdentitySuffix,
		UnstableResp3:         o.UnstableResp3,
	}), nil
}

// tlsConfig reads the files of the section redis.tls. It returns nil if there are none: then Redis
// is spoken to in the clear. The error has a line for each fault, which begins with its key.
func tlsConfig(config configuration.RedisTLSOptions) (*tls.Config, error) {
	if config.Certificate == "" && config.Key == "" && len(config.RootCAs) == 0 {
		return nil, nil
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	var faults []error
	switch {
	case config.Certificate != "" && config.Key != "":
		pair, err := tls.LoadX509KeyPair(config.Certificate, config.Key)
		if err != nil {
			faults = append(faults, fmt.Errorf("redis.tls.certificate, redis.tls.key: %w", err))
		}
		secure.Certificates = []tls.Certificate{pair}
	case config.Certificate != "":
		faults = append(faults, errors.New("redis.tls.key: missing beside redis.tls.certificate"))
	case config.Key != "":
		faults = append(faults, errors.New("redis.tls.certificate: missing beside redis.tls.key"))
	}
	if len(config.RootCAs) > 0 {
		secure.RootCAs = x509.NewCertPool()
	}
	for i, file := range config.RootCAs {
		text, err := os.ReadFile(file)
		if err == nil && !secure.RootCAs.AppendCertsFromPEM(text) {
			err = fmt.Errorf("%s has no certificate in PEM", file)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("redis.tls.rootcas[%d]: %w", i, err))
		}
	}
	return secure, errors.Join(faults...)
}

// ask asks Redis something, for patience at most, unless Redis was away a moment ago. It returns
// false if Redis is away.
func (l *Leases) ask(ctx context.Context, question func(context.Context) error) bool {
	return l.health.maybe(l.times.pause) && l.insist(ctx, question)
}

// insist is ask for who can wait: it asks even if Redis was away.
func (l *Leases) insist(ctx context.Context, question func(context.Context) error) bool {
	limited, cancel := context.WithTimeout(ctx, l.times.patience)
	defer cancel()
	err := question(limited)
	if err == nil {
		return true
	}
	if node := (*redsync.RedisError)(nil); errors.As(err, &node) {
		err = node.Err // there is one node, and nothing else
	}
	if ctx.Err() == nil { // otherwise nobody waits for the answer, and nothing is said of Redis
		l.health.fails(err, l.times.pause)
	}
	return false
}
