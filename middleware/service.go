package middleware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/auth"
	"github.com/distribution/distribution/v3/registry/handlers"
	registrymiddleware "github.com/distribution/distribution/v3/registry/middleware/registry"
	repositorymiddleware "github.com/distribution/distribution/v3/registry/middleware/repository"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	storagemiddleware "github.com/distribution/distribution/v3/registry/storage/driver/middleware"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/middleware/blobserver"
	"github.com/nixery-registry/nixery-registry/middleware/collection"
	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/middleware/lease"
	"github.com/nixery-registry/nixery-registry/middleware/retention"
	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// name is what the middleware is called in config.yml.
const name = "nix"

// serviceKey is the key under which Setup leaves the Service in the options that the registry hands
// to the middleware. No key of YAML can be the same.
const serviceKey = "\x00service"

// A builder is a nixbuilder.Builder, or that of a test.
type builder interface {
	Pin(ctx context.Context, tag string) (source.Pinned, error)
	Current(tag string) (revision string, ok bool)
	Offers(ctx context.Context) []string
	Doubt()
	NixVersion() string
	Refusal(ctx context.Context, request names.Request) error
	Prepare(ctx context.Context, pinned source.Pinned, requests []names.Request) error
	Build(
		ctx context.Context, request names.Request, pinned source.Pinned, who limit.Asker, into nixbuilder.Repository,
	) (image.Image, error)
	Layout(context.Context, source.Pinned, nixbuilder.LayoutOptions) (nixbuilder.Layout, error)
	Drain(context.Context) error
	Close()
}

// A Service answers the pulls of one registry. It is safe for concurrent use.
type Service struct {
	config   *configuration.Configuration
	options  Options
	form     string   // of images, as the options have it
	tags     []string // that the operator chose, not a client
	proxies  []netip.Prefix
	leases   *lease.Leases // nil where no other replica is known of
	readOnly bool
	serves   bool // for a registry, not a command
	recent   recentBuilds
	tuning   runtimeTuning

	told   chan struct{} // by a hook, that the package set has changed
	lookUp chan struct{} // to follow

	// What readiness tells.
	storageHealth                storageHealth
	packagesHealth, buildsHealth condition

	// Set by attach, before the first request.
	builder   builder
	gate      *collection.Gate // set before attach; nil: the program has not called Setup
	ungate    func()
	collector *collection.Collector
	namespace distribution.Namespace
	served    distribution.Namespace // whose repositories clients read
	spells    bool                   // the registry itself has spellings
	store     *imagestore.Store
	jobs      *jobs
	rate      *rate
	notifier  notifier
	pulls     *retention.Pulls // nil: nobody asks when images were pulled
	retaining background
	// Nil where somebody is notified of pulls: the registry notifies of what it reads.
	manifests   *weighted.Cache[digest.Digest, distribution.Manifest]
	recentNames *lru.Cache[string, names.Request] // that were pulled last as latest
}

// The registration that the registry's plug-in convention asks for.
func init() {
	p := &plugin{services: make(map[*configuration.Configuration]*Service)}
	for _, err := range []error{
		storagemiddleware.Register(name, p.storage),
		registrymiddleware.RegisterOptions(storage.BlobDescriptorServiceFactory(&p.statters)),
		registrymiddleware.Register(name, p.registry),
		repositorymiddleware.Register(name, p.repository),
		auth.Register(anonymousPullName, newAnonymousPull),
	} {
		if err != nil {
			panic(err) // another one of this name is linked into the program
		}
	}
}

// Setup reads the nix stanza of a registry's configuration, and has the Service answer pulls of the
// registry that the caller starts afterwards with the same configuration. It returns nil if there
// is no stanza. The error has a line for each fault, which begins with the key; nothing is started
// then.
func Setup(config *configuration.Configuration) (*Service, error) {
	stanza, err := find(config)
	if stanza == nil || err != nil {
		return nil, err
	}
	service, err := newService(config, stanza)
	if err != nil {
		return nil, err
	}
	live := configuration.Parameters{serviceKey: service}
	stanza.Options = live
	for _, kind := range []string{"storage", "registry"} {
		config.Middleware[kind] = append(
			config.Middleware[kind], configuration.Middleware{Name: name, Options: live},
		)
	}
	return service, nil
}

// find returns the stanza, or nil.
func find(config *configuration.Configuration) (*configuration.Middleware, error) {
	var found *configuration.Middleware
	stanzas := config.Middleware["repository"]
	for i := range stanzas {
		switch {
		case stanzas[i].Name != name:
		case stanzas[i].Disabled: // which the registry itself does not look at
			const fault = "middleware.repository[%d].disabled: is ignored by the registry: remove the stanza instead"
			return nil, fmt.Errorf(fault, i)
		case found != nil:
			return nil, fmt.Errorf("middleware.repository[%d]: %s is listed twice", i, name)
		default:
			found = &stanzas[i]
		}
	}
	return found, nil
}

func newService(config *configuration.Configuration, stanza *configuration.Middleware) (*Service, error) {
	var faults []error
	if config.Proxy.RemoteURL != "" {
		faults = append(faults, errors.New("proxy.remoteurl: "+
			"a pull-through cache has nothing to do with images that are built: use one registry for each"))
	}
	faults = append(faults, anonymousPullFaults(config)...)
	options, err := ParseOptions(stanza.Options)
	if err != nil {
		faults = append(faults, prefixed("middleware.repository["+name+"].options.", err)...)
	}
	if readOnly(config) && len(options.Prebuild) > 0 {
		faults = append(faults, fmt.Errorf("middleware.repository[%s].options.prebuild: "+
			"nothing is built in read-only mode, which storage.maintenance.readonly.enabled has switched on: "+
			"keep one of the two", name))
	}
	leases, err := lease.New(config, 2*max(options.Build.Total, options.Build.Timeout))
	if err != nil {
		faults = append(faults, err)
	}
	if readOnly(config) && options.Collection.Every > 0 {
		faults = append(faults, fmt.Errorf("middleware.repository[%s].options.collection.every: "+
			"nothing is deleted in read-only mode, which storage.maintenance.readonly.enabled has switched on: "+
			"leave one of the two", name))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	proxies, err := options.Build.proxies()
	if err != nil {
		return nil, err
	}
	return &Service{
		config:   config,
		options:  options,
		form:     options.form(),
		tags:     options.tags(),
		proxies:  proxies,
		leases:   leases,
		readOnly: readOnly(config),
		serves:   true,
		told:     make(chan struct{}, 1),
		lookUp:   make(chan struct{}, 1),
	}, nil
}

// readOnly reads the registry's own setting, storage.maintenance.readonly.enabled.
func readOnly(config *configuration.Configuration) bool {
	readonly, _ := config.Storage["maintenance"]["readonly"].(map[any]any)
	enabled, _ := readonly["enabled"].(bool)
	return enabled
}

// redirects reads the registry's own setting, storage.redirect.disable.
func redirects(config *configuration.Configuration) bool {
	disabled, _ := config.Storage["redirect"]["disable"].(bool)
	return !disabled
}

// Blobs has the registry send blobs without copying them (package blobserver). A program has it by
// registry.RegisterHandler(middleware.Blobs), before it starts the registry and after all other
// handlers. Without it, blobs go through small buffers.
func Blobs(_ *configuration.Configuration, api http.Handler) http.Handler {
	return blobserver.Handler(api)
}

// attach gives the Service the registry's blobs and storage, and starts what builds. Prebuilding
// ends with ctx.
func (s *Service) attach(ctx context.Context, namespace distribution.Namespace, storage driver.StorageDriver) error {
	if err := s.open(namespace, storage); err != nil {
		return err
	}
	builder, err := nixbuilder.New(ctx, s.options.builder(), s.store.State())
	if err != nil {
		return err
	}
	s.builder = builder
	s.watch(ctx)
	if s.serves && !s.readOnly {
		go s.store.Recover(ctx)
		go s.follow(ctx)
		if !s.options.Packages.isPathAlone() {
			go s.hearNews(ctx)
		}
		if err := s.retain(ctx); err != nil {
			return err
		}
	} else if s.serves {
		logrus.Info("nix: in read-only mode, nothing is built")
	}
	if s.notifier, err = newNotifier(ctx, s.config); err != nil {
		return err
	}
	if s.serves && len(s.options.Prebuild) > 0 {
		go s.prebuild(ctx)
	}
	return nil
}

// open makes what the Service keeps in storage and in memory.
func (s *Service) open(namespace distribution.Namespace, storage driver.StorageDriver) (err error) {
	s.namespace, s.served = namespace, namespace
	s.storageHealth.storage = storage
	s.store = imagestore.New(storage, namespace, imagestore.Options{
		Form: s.form, Format: nixbuilder.Format, Tags: s.tags, ReadOnly: s.readOnly,
	})
	if s.gate != nil {
		s.collector = collection.New(s.gate, namespace, s.store.Made)
	}
	if len(s.config.Notifications.Endpoints) == 0 {
		s.manifests = weighted.New[digest.Digest, distribution.Manifest](manifestCacheBytes)
	}
	s.jobs = newJobs(s.options.Build.Concurrency+s.options.Build.Queue, s.options.Build.PerClient)
	if s.rate, err = newRate(s.options.Build.NewPerHour); err != nil {
		return err
	}
	s.recentNames, err = lru.New[string, names.Request](recentNamesKept)
	return err
}

// closeTime is how long Close waits for the builds under way, and again for links: both may wait
// for a storage that does not answer.
const closeTime = 10 * time.Second

// Close ends the builds under way, of which no tag remains, gives their leases back, ends the
// connections to Nix, links the layers of images that are served already, and delivers the
// notifications that are left. That takes some 50 s at most. Nothing may be asked of the Service any
// more.
func (s *Service) Close() {
	if s.ungate != nil {
		defer s.ungate()
	}
	if s.builder == nil {
		return // it was not attached
	}
	inTime := func(end func(context.Context)) {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		end(ctx)
	}
	inTime(s.retaining.end)
	inTime(s.jobs.close)
	s.leases.Close()
	inTime(s.pulls.Close)
	inTime(s.store.Close)
	s.builder.Close()
	s.notifier.close()
}

// The registry calls a plugin. It finds the Service that Setup made, or makes one for each
// configuration, once.
type plugin struct {
	statters collection.Statters
	mu       sync.Mutex
	services map[*configuration.Configuration]*Service
}

// storage is called once, before the registry is made of its storage.
func (p *plugin) storage(
	_ context.Context, storage driver.StorageDriver, options map[string]any,
) (driver.StorageDriver, error) {
	service, ok := options[serviceKey].(*Service)
	if !ok {
		return nil, fmt.Errorf("middleware.storage: %s goes under middleware.repository", name)
	}
	service.gate = collection.NewGate(storage)
	service.ungate = p.statters.Add(service.gate)
	return service.gate, nil
}

// registry is called once, when the registry starts.
func (*plugin) registry(
	ctx context.Context, namespace distribution.Namespace, storage driver.StorageDriver,
	options map[string]any,
) (distribution.Namespace, error) {
	service, ok := options[serviceKey].(*Service)
	if !ok {
		return nil, fmt.Errorf("middleware.registry: %s goes under middleware.repository", name)
	}
	if err := service.attach(ctx, namespace, storage); err != nil {
		return nil, err
	}
	service.served = blobserver.Wrap(namespace, storage, redirects(service.config))
	service.spells = true
	return wrapSpellings(service.served, service), nil
}

// repository is called for every request that names a repository.
func (p *plugin) repository(
	ctx context.Context, repo distribution.Repository, options map[string]any,
) (distribution.Repository, error) {
	service, ok := options[serviceKey].(*Service)
	if !ok {
		app, ok := ctx.(*handlers.App)
		if !ok {
			return nil, fmt.Errorf("%s middleware: called with a %T, not by a registry", name, ctx)
		}
		var err error
		if service, err = p.service(app); err != nil {
			return nil, err
		}
	}
	if !service.spells {
		var err error
		if repo, err = service.readable(ctx, repo); err != nil {
			return nil, err
		}
	}
	return &repository{Repository: repo, service: service}, nil
}

// service makes the Service of a registry whose program did not call Setup.
func (p *plugin) service(app *handlers.App) (*Service, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if service, ok := p.services[app.Config]; ok {
		return service, nil
	}
	stanza, err := find(app.Config)
	if err != nil {
		return nil, err
	}
	service, err := newService(app.Config, stanza)
	if err != nil {
		return nil, err
	}
	own, err := factory.Create(app, app.Config.Storage.Type(), app.Config.Storage.Parameters())
	if err != nil {
		return nil, fmt.Errorf("opening the registry's storage: %w", err)
	}
	namespace, err := storage.NewRegistry(app, own)
	if err != nil {
		return nil, err
	}
	if err := service.attach(app, namespace, own); err != nil {
		return nil, err
	}
	p.services[app.Config] = service
	return service, nil
}
