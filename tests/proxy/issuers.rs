//! Those who are asked for credentials, speaking the real protocols.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bypassctl::tls::issue::{DevelopmentCa, IssuedLeaf};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt as _};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// What the Workload API answers with, as workload.proto has it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) svids: Vec<Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    pub(crate) federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Svid {
    #[prost(string, tag = "1")]
    pub(crate) spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) hint: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SvidRequest {}

pub(crate) fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

impl SvidResponse {
    pub(crate) fn of(id: &str, leaf: &IssuedLeaf, ca: &DevelopmentCa) -> Self {
        let key = PrivatePkcs8KeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
        let svid = Svid {
            spiffe_id: id.to_owned(),
            x509_svid: der(&leaf.certificate_pem),
            x509_svid_key: key.secret_pkcs8_der().to_vec(),
            bundle: der(ca.certificate_pem()),
            hint: "internal".to_owned(),
        };
        Self { svids: vec![svid], ..Self::default() }
    }
}

type Answer = Result<SvidResponse, Status>;

/// A Workload API over a Unix socket; it goes away when dropped.
pub(crate) struct WorkloadApi {
    answers: watch::Sender<Answer>,
    socket: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

impl WorkloadApi {
    pub(crate) fn start(socket: &Path, first: Answer) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let answers = watch::Sender::new(first);
        let heard = answers.subscribe();
        let listener = runtime.block_on(async { UnixListener::bind(socket) }).unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let heard = heard.clone();
                tokio::spawn(serve(stream, move |request| {
                    let service = Fetch(heard.clone());
                    Box::pin(async move {
                        assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
                        tonic::server::Grpc::new(ProstCodec::default()).server_streaming(service, request).await
                    })
                }));
            }
        });
        Self { answers, socket: socket.to_owned(), runtime: Some(runtime) }
    }

    /// Tells everybody who listens.
    pub(crate) fn say(&self, answer: Answer) {
        drop(self.answers.send_replace(answer));
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

type Handler = BoxFuture<'static, hyper::Response<tonic::body::Body>>;

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handle: impl Fn(hyper::Request<Incoming>) -> Handler + Send + Sync + 'static,
) {
    let handle = Arc::new(handle);
    let service = service_fn(move |request| {
        let answer = handle(request);
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

struct Fetch(watch::Receiver<Answer>);

struct Answers(BoxStream<'static, Answer>);

impl Stream for Answers {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        self.0.poll_next_unpin(context)
    }
}

impl tonic::server::ServerStreamingService<SvidRequest> for Fetch {
    type Response = SvidResponse;
    type ResponseStream = Answers;
    type Future = std::future::Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<SvidRequest>) -> Self::Future {
        // As SPIRE's agent says it.
        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            return std::future::ready(Err(Status::invalid_argument("security header missing from request")));
        }
        let mut heard = self.0.clone();
        heard.mark_changed();
        let answers = futures_util::stream::unfold(heard, async |mut heard| {
            heard.changed().await.ok()?;
            let answer = heard.borrow_and_update().clone();
            Some((answer, heard))
        });
        std::future::ready(Ok(Response::new(Answers(answers.boxed()))))
    }
}

/// `IstioCertificateRequest` of istio's ca.proto.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IstioRequest {
    #[prost(string, tag = "1")]
    pub(crate) csr: String,
    #[prost(int64, tag = "3")]
    pub(crate) validity_duration: i64,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IstioResponse {
    #[prost(string, repeated, tag = "1")]
    pub(crate) cert_chain: Vec<String>,
}

/// What istiod does with a request whose token it accepts; `None` to leave it unanswered.
pub(crate) type Sign = Arc<dyn Fn(&str) -> Option<Result<IstioResponse, Status>> + Send + Sync>;

/// How istiod is, at the moment.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) token: String,
    pub(crate) sign: Sign,
    pub(crate) tls: Arc<rustls::ServerConfig>,
}

/// istiod's port for gRPC, on loopback.
pub(crate) struct Istiod {
    pub(crate) address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    _runtime: tokio::runtime::Runtime,
}

impl Istiod {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let behaviour = Arc::new(Mutex::new(behaviour));
        let shared = Arc::clone(&behaviour);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let tls = Arc::clone(&shared.lock().unwrap().tls);
                    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
                    serve(stream, move |request| {
                        let service = Create(Arc::clone(&shared));
                        Box::pin(async move {
                            assert_eq!(
                                request.uri().path(),
                                "/istio.v1.auth.IstioCertificateService/CreateCertificate"
                            );
                            tonic::server::Grpc::new(ProstCodec::default()).unary(service, request).await
                        })
                    })
                    .await;
                });
            }
        });
        Self { address, behaviour, _runtime: runtime }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }
}

struct Create(Arc<Mutex<Behaviour>>);

impl tonic::server::UnaryService<IstioRequest> for Create {
    type Response = IstioResponse;
    type Future = BoxFuture<'static, Result<Response<IstioResponse>, Status>>;

    fn call(&mut self, request: Request<IstioRequest>) -> Self::Future {
        let Behaviour { token, sign, .. } = self.0.lock().unwrap().clone();
        Box::pin(async move {
            let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
            if authorization != Some(&format!("Bearer {token}")) {
                return Err(Status::unauthenticated("request authenticate failure"));
            }
            match sign(&request.into_inner().csr) {
                Some(answer) => answer.map(Response::new),
                None => std::future::pending().await,
            }
        })
    }
}
