use super::*;
use tokio::io::duplex;

/// What a client that sends `bytes` and then nothing more is told, and how it ends.
async fn negotiated(bytes: &[u8]) -> (String, Vec<u8>) {
    let (mut far, mut near) = duplex(1024);
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let result = negotiate(&mut near).await;
    let mut unread = Vec::new();
    near.read_to_end(&mut unread).await.unwrap();
    let text = match result {
        Ok(Target::Address(address)) => format!("{address} + {}", unread.len()),
        Ok(Target::Name(name, port)) => format!("{name}:{port} + {}", unread.len()),
        Err(error) => {
            near.write_all(&error.answer().unwrap_or_default()).await.unwrap();
            error.to_string()
        }
    };
    drop(near);
    let mut told = Vec::new();
    far.read_to_end(&mut told).await.unwrap();
    (text, told)
}

fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn failure(code: u8) -> Vec<u8> {
    bytes(&[&[5, 0], &[5, code, 0, 1, 0, 0, 0, 0, 0, 0]])
}

#[tokio::test]
async fn requests_are_read_to_the_byte() {
    let v6 = "fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mapped = "::ffff:10.0.0.1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let long = [b'a'; 255];
    let rows: Vec<(Vec<u8>, String)> = vec![
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 1, 10, 0, 0, 1, 0, 80]]), "10.0.0.1:80 + 0".into()),
        (bytes(&[&[5, 3, 2, 1, 0], &[5, 1, 0, 1, 10, 0, 0, 1, 0x1f, 0x90], b"payload"]), "10.0.0.1:8080 + 7".into()),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 4], &v6, &[0, 80]]), "[fd00::1]:80 + 0".into()),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 4], &mapped, &[0, 80]]), "10.0.0.1:80 + 0".into()),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 3, 3], b"web", &[0, 80]]), "web:80 + 0".into()),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 3, 8], b"10.0.0.1", &[0, 80]]), "10.0.0.1:80 + 0".into()),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 3, 255], &long, &[0, 80]]), format!("{}:80 + 0", "a".repeat(255))),
    ];
    for (sent, want) in rows {
        let (got, told) = negotiated(&sent).await;
        assert_eq!((got, told), (want, vec![5, 0]), "{sent:?}");
    }
}

#[tokio::test]
async fn garbage_is_answered_as_the_rfc_says_or_not_at_all() {
    let broken = "connection broke";
    let rows: Vec<(Vec<u8>, &str, Vec<u8>)> = vec![
        (vec![], broken, vec![]),
        (vec![5], broken, vec![]),
        (vec![5, 2, 0], broken, vec![]),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not socks version 5", vec![]),
        (vec![4, 1, 0, 80, 10, 0, 0, 1, 0], "not socks version 5", vec![]),
        (vec![5, 0], "client does not offer to go without authentication", vec![5, 0xff]),
        (vec![5, 2, 1, 2], "client does not offer to go without authentication", vec![5, 0xff]),
        (bytes(&[&[5, 1, 0], &[4, 1, 0, 1]]), "not socks version 5", vec![5, 0]),
        (bytes(&[&[5, 1, 0], &[5, 2, 0, 1]]), "command is not CONNECT", failure(7)),
        (bytes(&[&[5, 1, 0], &[5, 3, 0, 1]]), "command is not CONNECT", failure(7)),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 2]]), "unknown address type", failure(8)),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 1, 10, 0, 0, 1, 0, 0]]), "destination is not valid", failure(1)),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 3, 0, 0, 80]]), "destination is not valid", failure(1)),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 3, 2, 0xff, 0xfe, 0, 80]]), "destination is not valid", failure(1)),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 3, 3], b"a\nb", &[0, 80]]), "destination is not valid", failure(1)),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 3, 9], b"short"]), broken, vec![5, 0]),
        (bytes(&[&[5, 1, 0], &[5, 1, 0, 4, 0]]), broken, vec![5, 0]),
    ];
    for (sent, error, told) in rows {
        assert_eq!(negotiated(&sent).await, (error.into(), told), "{sent:?}");
    }
}
